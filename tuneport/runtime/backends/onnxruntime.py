"""The ONNX Runtime backend."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tuneport.errors import EngineError
from tuneport.host import usable_cores
from tuneport.runtime.backends.libraries import preload_libraries
from tuneport.runtime.batch import Batch, Ids, Output
from tuneport.runtime.device_errors import load_error
from tuneport.runtime.device_options import NO_OPTIONS, DeviceOptions
from tuneport.schema.artifact import Device

PROVIDERS: dict[Device, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
ORT_ERROR = 3
"""onnxruntime's log severity for errors only; it warns about every quantized graph."""


class OnnxRuntimeBackend:
    """ONNX Runtime on the execution provider of a device, never on another one."""

    def __init__(
        self,
        path: Path,
        *,
        device: Device = "cpu",
        threads: int | None = None,
        streams: int = 1,
        provider_options: Mapping[str, str] | None = None,
        device_options: DeviceOptions = NO_OPTIONS,
    ) -> None:
        """Open a session; raises EngineError without the execution provider, or if the graph cannot be loaded.

        `threads` is the number of CPU threads of all streams together, by default the container's quota.
        `provider_options` are those of the device's execution provider, which `device_options` add to.
        """
        self.streams = streams
        self._device = device
        # TensorRT builds a new engine for each shape outside of those that it has seen.
        self.length_multiple = 16 if device == "tensorrt" else 1
        provider = check_provider(device)
        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, (threads or usable_cores()) // streams)
        options.inter_op_num_threads = 1
        options.log_severity_level = ORT_ERROR
        try:
            providers = providers_for(device, provider_options or {}, device_options)
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise load_error("onnxruntime", path, error) from error
        # Without CUDA's libraries, onnxruntime only logs a line and uses the CPU.
        if self._session.get_providers()[0] != provider:
            raise EngineError(
                f"{provider} was asked for and {self._session.get_providers()[0]} was given",
                "install CUDA's libraries (tuneport[gpu] brings them, tuneport[tensorrt] those of TensorRT) and check "
                "the driver with nvidia-smi",
            )
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]

    def run(self, batch: Batch) -> dict[str, Output]:
        """Run the graph on a batch and return every output by name, rows first; unknown feeds are ignored."""
        if self._device != "cpu":
            return self._run_bound(batch.feeds)
        values = self._session.run(self._outputs, {name: batch.feeds[name] for name in self._inputs})
        return dict(zip(self._outputs, values, strict=True))

    def _run_bound(self, feeds: Mapping[str, Ids]) -> dict[str, Output]:
        """Run with the outputs bound to the device, and copy all of them to the host at the end."""
        binding = self._session.io_binding()
        for name in self._inputs:
            binding.bind_cpu_input(name, np.ascontiguousarray(feeds[name]))
        for name in self._outputs:
            binding.bind_output(name, "cuda")
        self._session.run_with_iobinding(binding)
        return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))


def providers_for(
    device: Device, provider_options: Mapping[str, str], device_options: DeviceOptions
) -> list[tuple[str, dict[str, str]]]:
    """Return the execution providers of a session with their options, the device's first.

    `provider_options` are the variant's, and those of the deployment outweigh them.
    """
    cuda = device_options.cuda_options()
    options = {**provider_options, **(cuda if device == "cuda" else {})}
    # CUDA runs the nodes that TensorRT cannot compile.
    return [(PROVIDERS[device], options), *([(PROVIDERS["cuda"], cuda)] if device == "tensorrt" else [])]


def check_provider(device: Device) -> str:
    """Load a device's libraries and return its execution provider; EngineError if this onnxruntime lacks it."""
    provider = PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise EngineError(
            f"this onnxruntime has no {provider}",
            "install tuneport[gpu] instead of tuneport[cpu], or use a variant for another device",
        )
    preload_libraries(device)
    return provider
