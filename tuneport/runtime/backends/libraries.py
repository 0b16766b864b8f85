"""TensorRT's libraries, which a Python package brings; imports no engine.

ONNX Runtime's provider for TensorRT is linked to them by name and does not look into Python's folders.
"""

import contextlib
import ctypes
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

from tuneport.errors import EngineError

TENSORRT_PACKAGE = "tensorrt-cu13-libs"
TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
"""What onnxruntime 1.31's provider for TensorRT is linked to; the second needs the first."""


def preload_tensorrt() -> None:
    """Load TensorRT's libraries; what is not installed is left to the system's loader."""
    for path in tensorrt_libraries():
        with contextlib.suppress(OSError):  # the provider says what it lacks
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def has_tensorrt() -> bool:
    """Tell whether TensorRT is installed, in the version that the provider is linked to."""
    return len(tensorrt_libraries()) == len(TENSORRT_LIBRARIES)


def tensorrt_libraries() -> list[Path]:
    """Return the paths of TensorRT's libraries in the order to load them; none where the package is not installed."""
    try:
        installed = files(TENSORRT_PACKAGE) or []
    except PackageNotFoundError:
        return []
    by_name = {path.name: Path(str(path.locate())) for path in installed}
    return [by_name[name] for name in TENSORRT_LIBRARIES if name in by_name]


def tensorrt_version() -> str:
    """Return the version of the installed TensorRT; raises EngineError if there is none."""
    try:
        return version(TENSORRT_PACKAGE)
    except PackageNotFoundError as error:
        problem = f"TensorRT is not installed: the package {TENSORRT_PACKAGE} is missing"
        raise EngineError(problem, "install tuneport[tensorrt], or choose another variant") from error
