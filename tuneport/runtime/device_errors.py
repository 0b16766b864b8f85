"""Tell the failures of a device from other errors of an engine, by the text of the exception.

onnxruntime raises the same exceptions (RuntimeException, Fail) for a wrong input, for too little memory and for a GPU
that is gone. Its texts are `CUDA failure 2: out of memory ; GPU=0 ; …` with the name of NVIDIA's library and the number
of the status, and for memory also those of its own arena. torch and TensorRT quote the driver's sentence alone.
"""

import re
from pathlib import Path
from typing import Literal

from tuneport.errors import EngineError

Failure = Literal["memory", "lost"]
"""`memory`: less work may fit. `lost`: nothing runs on the device in this process any more."""

STATUS = re.compile(r"\b(CUDA|CUBLAS|CUBLASLT|CUDNN|CUDNN_FE|CUFFT|CURAND|CUSPARSE) failure (\d+)", re.IGNORECASE)
"""The library and its status in onnxruntime's texts."""
LOST_CUDA = frozenset(
    {4, 46, 100, 101, 201, 214, 220, 226, 700, 702, 709, 710, *range(714, 720), 721, 802, 803, 805, 806, 807, 999}
)
"""Numbers of cudaError_t after which the process's context is unusable, or which say that there is no device."""
LOST_TEXTS = (
    # Sentences of cudaGetErrorString.
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "unspecified launch failure",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "all CUDA-capable devices are busy or unavailable",
    "no CUDA-capable device is detected",
    "invalid device ordinal",
    "the launch timed out and was terminated",
    "device-side assert triggered",
    "misaligned address",
    "hardware stack error",
    "invalid program counter",
    "context is destroyed",
    "driver shutting down",
    # Statuses of cuBLAS and cuDNN whose cause is a kernel that failed.
    "STATUS_EXECUTION_FAILED",
    "STATUS_INTERNAL_ERROR",
    "STATUS_MAPPING_ERROR",
    # onnxruntime's provider for TensorRT, which names the cause in the log alone.
    "execution context enqueue failed",
    # NVML and the driver.
    "device is lost",
    "GPU is lost",
    "has fallen off the bus",
)
MEMORY_CUDA = frozenset({2})
MEMORY_TEXTS = (
    "Failed to allocate memory for requested buffer",  # onnxruntime's arena, without memory on the device
    "is smaller than requested bytes",  # the same, at gpu_mem_limit
    "out of memory",  # CUDA's sentence, and torch's
    "DefaultCPUAllocator",  # torch's for the host's memory
    "OutOfMemory",  # TensorRT
    "STATUS_ALLOC_FAILED",  # cuBLAS, and cuDNN before version 9
    "STATUS_NOT_INITIALIZED",  # of a library that got no memory for its handle
    "ALLOCATION_FAILED",  # cuDNN 9
    "CUFFT_ALLOC_FAILED",
    "std::bad_alloc",
)
MAX_REASON_CHARS = 160


def classify(error: BaseException) -> Failure | None:
    """Tell what an engine's exception says of its device; None for an error that has nothing to do with it.

    A text that names both failures means a lost device, because a lost device also causes statuses of missing memory.
    """
    if isinstance(error, MemoryError):
        return "memory"
    text = str(error)
    statuses = {int(status) for library, status in STATUS.findall(text) if library.upper() == "CUDA"}
    is_memory = bool(statuses & MEMORY_CUDA) or _has(text, MEMORY_TEXTS)
    if statuses & LOST_CUDA or (_has(text, LOST_TEXTS) and not _is_allocation(text)):
        return "lost"
    return "memory" if is_memory else None


def reason_of(error: BaseException) -> str:
    """Return the part of an engine's text that names the failure, without host and source file."""
    text = " ".join(str(error).split())
    if match := STATUS.search(text):
        return text[match.start() :].partition(" ;")[0][:MAX_REASON_CHARS]
    found = [text.lower().find(sentence.lower()) for sentence in (*LOST_TEXTS, *MEMORY_TEXTS)]
    start = min((index for index in found if index >= 0), default=0)
    return text[start : start + MAX_REASON_CHARS] or type(error).__name__


def load_error(engine: str, path: Path, error: BaseException) -> EngineError:
    """Return the error for a graph that an engine cannot open, with the remedy for what it says of the device."""
    remedies: dict[Failure | None, str] = {
        "memory": "free memory on the device, or lower TUNEPORT_WORKERS so that fewer processes share it",
        "lost": "check the device with nvidia-smi",
        None: "export the checkpoint again",
    }
    return EngineError(f"{engine} cannot load {path} ({error})", remedies[classify(error)])


def _is_allocation(text: str) -> bool:
    """Tell whether the text of an internal error of cuDNN's names a failed allocation."""
    return "ALLOCATION_FAILED" in text.upper()


def _has(text: str, sentences: tuple[str, ...]) -> bool:
    folded = text.lower()
    return any(sentence.lower() in folded for sentence in sentences)
