"""Open the backend that a manifest names; only its engine is imported."""

from pathlib import Path

from tuneport.errors import EngineError
from tuneport.runtime.backends.base import Backend
from tuneport.runtime.device_options import NO_OPTIONS, DeviceOptions
from tuneport.schema.artifact import Execution


def open_backend(
    folder: Path, execution: Execution, *, threads: int | None = None, device_options: DeviceOptions = NO_OPTIONS
) -> Backend:
    """Open a variant's graph in its engine; raises EngineError if that is not installed."""
    path = folder / execution.files[0].path
    if execution.engine == "openvino":
        try:
            from tuneport.runtime.backends.openvino import OpenVinoBackend
        except ModuleNotFoundError as error:
            raise EngineError(
                f"{path} needs OpenVINO", "install tuneport[openvino], or serve another variant"
            ) from error
        return OpenVinoBackend(path, precision=execution.precision, threads=threads, streams=execution.streams)
    if execution.device == "cpu":
        from tuneport.runtime.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(path, threads=threads, streams=execution.streams)
    from tuneport.runtime.backends.gpu import GpuBackend
    from tuneport.runtime.backends.tensorrt import engine_options

    engines = engine_options(path.parent) if execution.device == "tensorrt" else {}
    return GpuBackend(
        path,
        device=execution.device,
        threads=threads,
        streams=execution.streams,
        graph_shapes=execution.graph_shapes,
        provider_options={**execution.provider_options, **engines},
        device_options=device_options,
    )
