"""TensorRT's engines: where they are kept, and for which shapes they are built.

An engine belongs to a GPU and a version, and takes minutes to build. The export builds it into the artifact; on another
GPU or version it is built once, when the service starts, into the user's cache. The shapes that it is built for are the
variant's provider options (`profile_options`), so that no request ever waits for an engine.
"""

import os
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime

from tuneport.errors import EngineError
from tuneport.gpu import Gpu
from tuneport.host import Host
from tuneport.schema.artifact import Shape

ENGINES = "engines"
"""Folder of a variant that holds one folder of engines for each GPU and version."""
PACKAGES = ("tensorrt-cu13-libs", "tensorrt-cu13", "tensorrt-cu12", "tensorrt")


def profile_options(inputs: Iterable[str], *, typical: Shape, largest: Shape) -> dict[str, str]:
    """Return the options that let TensorRT build one engine for all shapes from 1 x 1 to `largest`."""
    names = list(inputs)

    def shapes(rows: int, length: int) -> str:
        return ",".join(f"{name}:{rows}x{length}" for name in names)

    return {
        "trt_profile_min_shapes": shapes(1, 1),
        "trt_profile_opt_shapes": shapes(*typical),
        "trt_profile_max_shapes": shapes(*largest),
    }


def engine_options(variant_folder: Path) -> dict[str, str]:
    """Return the options that name the folder of the engines for this GPU: the variant's own, or the user's cache.

    onnxruntime takes only "True" and "False" for TensorRT's switches, and "1" for CUDA's.

    Raises EngineError without a GPU or without TensorRT.
    """
    key = engine_key()
    folder = variant_folder / ENGINES / key
    if not folder.is_dir():
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        # Two artifacts differ in their graphs, whose hash is part of TensorRT's own file names.
        folder = cache / "tuneport" / "tensorrt" / key
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }


def engine_key() -> str:
    """Return the name of the folder of engines for this host: its GPU, TensorRT and onnxruntime."""
    gpus = Host.here().gpus
    if not gpus:
        raise EngineError("TensorRT needs a GPU, and NVML names none", "check the driver with nvidia-smi")
    return key_of(gpus[0], tensorrt_version(), onnxruntime.__version__)


def key_of(gpu: Gpu, tensorrt: str, runtime: str) -> str:
    """Return the name of the folder of engines for a GPU and versions."""
    name = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    return f"{name}-sm{gpu.compute_capability.replace('.', '')}-tensorrt{tensorrt}-onnxruntime{runtime}"


def tensorrt_version() -> str:
    """Return the version of the installed TensorRT; raises EngineError if there is none."""
    for package in PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise EngineError("TensorRT is not installed", "install tuneport[tensorrt], or choose another variant")
