"""Which variants run on a host: its packages, execution providers, GPUs and processor."""

import importlib.util
from collections.abc import Collection, Sequence
from functools import cache

from tuneport.errors import ArtifactError
from tuneport.gpu import TURING, Gpu, has_unnamed_gpu, use_first_gpu
from tuneport.host import Host
from tuneport.runtime.backends.libraries import has_tensorrt
from tuneport.runtime.backends.providers import PROVIDERS
from tuneport.schema.artifact import Execution, Manifest, Variant

VARIANT = "TUNEPORT_VARIANT"
"""Variable with the variant to open where no option names one."""


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


def variant_of_environment(manifest: Manifest, name: str | None) -> str | None:
    """Return what TUNEPORT_VARIANT names; raises an ArtifactError that says so for a variant which is not there."""
    try:
        manifest.variant(name)
    except ArtifactError as error:
        raise ArtifactError(f"{VARIANT} is set, and {error.problem}", error.remedy) from error
    return name


def obstacle(execution: Execution, host: Host, providers: Collection[str] | None = None) -> str | None:
    """Return why a variant does not run on a host, in a phrase that follows its name; None if it should.

    `providers` are the execution providers of ONNX Runtime, by default those of this environment.
    """
    if execution.device == "cpu":
        return _cpu_obstacle(execution, host)
    if (provider := PROVIDERS[execution.device]) not in (_providers() if providers is None else providers):
        return f"needs {provider}, which this onnxruntime lacks: install tuneport[gpu] instead of tuneport[cpu]"
    if execution.device == "tensorrt" and not has_tensorrt():
        return "needs TensorRT's libraries: install tuneport[tensorrt]"
    return _gpu_obstacle(execution, host)


def fit_gpus(execution: Execution, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return those of some GPUs that can run a variant, in their order."""
    return tuple(gpu for gpu in gpus if gpu_obstacle(execution, gpu) is None)


def unfit_gpus(execution: Execution, gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """Return why a variant that runs here leaves GPUs out, each reason once, in phrases that follow its name."""
    if execution.device == "cpu" or not fit_gpus(execution, gpus):
        return ()
    return tuple(dict.fromkeys(reason for gpu in gpus if (reason := gpu_obstacle(execution, gpu))))


def use_fit_gpu(*executions: Execution) -> None:
    """Let CUDA open, in this process, the first GPU that can run all of some variants; see `use_first_gpu`."""
    on_gpu = [each for each in executions if each.device != "cpu"]
    if on_gpu:
        use_first_gpu(lambda gpu: all(gpu_obstacle(each, gpu) is None for each in on_gpu))


def gpu_obstacle(execution: Execution, gpu: Gpu) -> str | None:
    """Return why a GPU cannot run a variant, in a phrase that follows the variant's name; None if it should."""
    required = execution.min_compute_capability or TURING
    if not gpu.has(required):
        return f"needs compute capability {required}, and {gpu.name} has {gpu.compute_capability}"
    # Each stream holds the weights once. TensorRT keeps its own, in a precision of its own.
    weights_gib = execution.size_bytes * execution.streams / 2**30 if execution.device == "cuda" else 0.0
    if 0 < gpu.memory_gib < weights_gib:
        needed = f"needs more than {weights_gib:.1f} GiB of GPU memory for its weights"
        return f"{needed}, and {gpu.name} has {gpu.memory_gib:g} GiB"
    return None


def _cpu_obstacle(execution: Execution, host: Host) -> str | None:
    if importlib.util.find_spec(execution.engine) is None:
        return f"needs the package {execution.engine}"
    if execution.precision == "bf16" and not host.has_bf16:
        return "needs a processor with bfloat16 instructions"
    if execution.saturates_on(host):
        return "was made for processors with VNNI, without which its sums overflow"
    return None


def _gpu_obstacle(execution: Execution, host: Host) -> str | None:
    if not host.gpus:
        return _unnamed_gpu_obstacle(execution)
    return None if fit_gpus(execution, host.gpus) else gpu_obstacle(execution, host.gpus[0])


def _unnamed_gpu_obstacle(execution: Execution) -> str | None:
    """Return why a variant does not run on a GPU that NVML does not name.

    None if it may: CUDA may find a GPU without NVML, and whether it fits shows when the variant is opened.
    """
    if not has_unnamed_gpu():
        return "needs an NVIDIA GPU, and none is visible"
    if execution.device == "tensorrt":
        return "needs NVML, which names the GPU that its engines are for: give the container the driver's utilities"
    return None


@cache
def _providers() -> tuple[str, ...]:
    """Return ONNX Runtime's execution providers; imported here because most artifacts are for CPUs alone."""
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())
