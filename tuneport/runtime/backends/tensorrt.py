"""TensorRT's engines: where they are kept, and for which shapes they are built.

An engine belongs to a graph, a GPU and a version, and takes minutes to build. The export builds it into the artifact. A
service takes a copy in the user's cache, because TensorRT writes there too, and the artifact's files must stay as they
are; on another GPU or version it builds the engine into that cache when it starts. The shapes that it is built for are
the variant's provider options (`profile_options`), so that no request ever waits for an engine.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import onnxruntime

from tuneport.errors import EngineError
from tuneport.folders import digest
from tuneport.gpu import Gpu
from tuneport.host import Host
from tuneport.runtime.backends.libraries import tensorrt_version
from tuneport.runtime.user_cache import CACHE, cache_folder, fill_folder
from tuneport.schema.artifact import Execution, File, Shape

ENGINES = "engines"
"""Folder of a variant that holds one folder of engines for each GPU and version."""

KEEP_ENGINES = {"trt_engine_cache_enable": "True", "trt_timing_cache_enable": "True"}
"""onnxruntime takes only "True" and "False" for TensorRT's switches, and "1" for CUDA's."""


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


def engine_options(artifact: Path, execution: Execution) -> dict[str, str]:
    """Return the options that name the folder of a variant's engines for this GPU.

    It is the variant's own while the export builds it, before its engines are among its files, and then one in the
    user's cache. Raises EngineError without a GPU or without TensorRT, and for a cache that cannot be written.
    """
    key = engine_key()
    own = (artifact / execution.files[0].path).parent / ENGINES / key
    engines = [file for file in execution.files if is_engine(file)]
    folder = own if own.is_dir() and not engines else _cached(artifact, execution, key)
    return {
        **KEEP_ENGINES,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_path": str(folder),
    }


def _cached(artifact: Path, execution: Execution, key: str) -> Path:
    """Return the folder of a graph's engines in the user's cache; a new one begins with the artifact's for this GPU."""
    engines = [file.path for file in execution.files if is_engine(file)]
    # TensorRT's own names have a hash of the graph's structure, which models that differ in weights, or in the shapes
    # that engines are built for, share.
    graph = digest([execution.provider_options, [file.sha256 for file in execution.files if not is_engine(file)]])[:16]
    folder = cache_folder("tensorrt", key, graph)
    try:
        fill_folder(folder, [artifact / path for path in engines if Path(path).parent.name == key])
    except OSError as error:
        problem = f"TensorRT's engines cannot be kept in {folder} ({error.strerror})"
        raise EngineError(problem, f"set {CACHE} to a folder that can be written") from error
    return folder


def is_engine(file: File) -> bool:
    """Tell whether a file of a variant is one of TensorRT's engines, or of what it keeps beside them."""
    return ENGINES in Path(file.path).parts[:-1]


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
