"""Open the backend that a manifest names; only its engine is imported."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tuneport.errors import EngineError, TuneportError
from tuneport.runtime.availability import use_fit_gpu
from tuneport.runtime.backends.base import Backend
from tuneport.runtime.device_errors import load_error
from tuneport.runtime.device_options import NO_OPTIONS, DeviceOptions
from tuneport.schema.artifact import Engine, Execution

ENGINES: dict[Engine, tuple[str, str]] = {
    "onnxruntime": ("ONNX Runtime", "tuneport[cpu] or tuneport[gpu]"),
    "openvino": ("OpenVINO", "tuneport[openvino]"),
}
"""Each engine's name and the extras that bring it."""


def open_backend(
    folder: Path, execution: Execution, *, threads: int | None = None, device_options: DeviceOptions = NO_OPTIONS
) -> Backend:
    """Open a variant's graph in its engine; raises EngineError if that is not installed."""
    path = folder / execution.files[0].path
    with _needs_engine(path, execution.engine):
        if execution.engine == "openvino":
            from tuneport.runtime.backends.openvino import OpenVinoBackend

            return OpenVinoBackend(path, precision=execution.precision, threads=threads, streams=execution.streams)
        if execution.device == "cpu":
            from tuneport.runtime.backends.onnxruntime import OnnxRuntimeBackend

            return OnnxRuntimeBackend(path, threads=threads, streams=execution.streams)
        return _open_on_gpu(folder, execution, threads, device_options)


@contextlib.contextmanager
def _needs_engine(path: Path, engine: Engine) -> Iterator[None]:
    """Raise EngineError with the remedy where the engine's package is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != engine:
            raise
        name, extra = ENGINES[engine]
        raise EngineError(f"{path} needs {name}", f"install {extra}, or serve another variant") from error


def _open_on_gpu(folder: Path, execution: Execution, threads: int | None, device_options: DeviceOptions) -> Backend:
    from tuneport.runtime.backends.gpu import GpuBackend
    from tuneport.runtime.backends.tensorrt import engine_options

    path = folder / execution.files[0].path
    use_fit_gpu(execution)
    engines = engine_options(folder, execution) if execution.device == "tensorrt" else {}
    try:
        return GpuBackend(
            path,
            device=execution.device,
            threads=threads,
            streams=execution.streams,
            graph_shapes=execution.graph_shapes,
            provider_options={**execution.provider_options, **engines},
            device_options=device_options,
        )
    except TuneportError:
        raise
    except Exception as error:  # of a CUDA graph that cannot be captured, for example for lack of memory
        raise load_error("onnxruntime", path, error) from error
