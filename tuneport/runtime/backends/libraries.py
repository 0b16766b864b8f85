"""Load the libraries of CUDA, cuDNN and TensorRT that are installed as Python packages.

ONNX Runtime's execution providers are linked to them by name and do not look into Python's folders.
"""

import contextlib
import ctypes
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import onnxruntime as ort

from tuneport.schema.artifact import Device

TENSORRT_PACKAGE = "tensorrt-cu13-libs"
TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
"""What onnxruntime 1.31's provider for TensorRT is linked to; the second needs the first."""


def preload_libraries(device: Device) -> None:
    """Load what a GPU's execution provider is linked to; what is not installed is left to the system's loader."""
    ort.preload_dlls()
    if device == "tensorrt":
        for path in tensorrt_libraries():
            with contextlib.suppress(OSError):  # the provider says what it lacks
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def tensorrt_libraries() -> list[Path]:
    """Return the paths of TensorRT's libraries in the order to load them; none where the package is not installed."""
    try:
        installed = files(TENSORRT_PACKAGE) or []
    except PackageNotFoundError:
        return []
    by_name = {path.name: Path(str(path.locate())) for path in installed}
    return [by_name[name] for name in TENSORRT_LIBRARIES if name in by_name]
