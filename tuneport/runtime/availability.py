"""Which variants run on a host: its packages, execution providers, GPU and processor."""

import importlib.util
from collections.abc import Collection
from functools import cache

from tuneport.host import Host
from tuneport.schema.artifact import Device, Execution, Manifest, Variant

MIN_COMPUTE_CAPABILITY = "7.5"
"""The oldest GPUs that onnxruntime-gpu's build for CUDA 13 has code for: Turing."""
PROVIDER_WORDS: dict[Device, str] = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


def obstacles(manifest: Manifest, host: Host | None = None) -> dict[str, str | None]:
    """Return for each variant of an artifact why it does not run on this host; None if it should."""
    here = host or Host.here()
    return {variant.name: obstacle(variant.execution, here) for variant in manifest.variants}


def variant_here(manifest: Manifest, name: str | None = None, host: Host | None = None) -> Variant:
    """Return the variant that is named, else the default one or, where that does not run here, the best that does.

    Where none runs it is the default variant: opening it says what is missing. Raises ArtifactError for an unknown
    name.
    """
    variant = manifest.variant(name)
    if name is not None or len(manifest.variants) == 1:
        return variant
    able = [each for each, obstacle in obstacles(manifest, host).items() if obstacle is None]
    return manifest.best(able) or variant


def obstacle(execution: Execution, host: Host, providers: Collection[str] | None = None) -> str | None:
    """Return why a variant does not run on a host, in a phrase that follows its name; None if it should.

    `providers` are the execution providers of ONNX Runtime, by default those of this environment.
    """
    if execution.device == "cpu":
        return _cpu_obstacle(execution, host)
    if (provider := PROVIDER_WORDS[execution.device]) not in (_providers() if providers is None else providers):
        return f"needs {provider}, which this onnxruntime lacks: install tuneport[gpu] instead of tuneport[cpu]"
    return _gpu_obstacle(execution, host)


def _cpu_obstacle(execution: Execution, host: Host) -> str | None:
    if importlib.util.find_spec(execution.engine) is None:
        return f"needs the package {execution.engine}"
    if execution.precision == "bf16" and not host.has_bf16:
        return "needs a processor with bfloat16 instructions"
    # OpenVINO's kernels do not saturate.
    is_onnxruntime_int8 = execution.engine == "onnxruntime" and execution.precision == "int8"
    if is_onnxruntime_int8 and host.int8_saturates and not execution.reduce_range:
        return "was made for processors with VNNI, without which its sums overflow"
    return None


def _gpu_obstacle(execution: Execution, host: Host) -> str | None:
    if not host.gpus:
        return "needs an NVIDIA GPU, and none is visible"
    required = execution.min_compute_capability or MIN_COMPUTE_CAPABILITY
    if not host.gpus[0].has(required):
        return f"needs compute capability {required}, and {host.gpus[0].name} has {host.gpus[0].compute_capability}"
    return None


@cache
def _providers() -> tuple[str, ...]:
    """Return ONNX Runtime's execution providers; imported here because most artifacts are for CPUs alone."""
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())
