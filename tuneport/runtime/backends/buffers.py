"""Host memory that a GPU copies from and to without a detour: page-locked, and reused from batch to batch."""

import contextlib
import ctypes
import math
import mmap
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
"""CUDA's runtime, which onnxruntime has loaded."""
SMALLEST = 1 << 16
"""Bytes of the first buffer of a name."""


class HostBuffers:
    """One buffer for each name, which grows to the largest array that it was asked for."""

    def __init__(self, *, page_locked: bool) -> None:
        """Page-locked memory is registered with CUDA; where that fails copies are slower, and nothing else."""
        self._runtime = _cuda_runtime() if page_locked else None
        self._memory: dict[str, npt.NDArray[np.uint8]] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array over the buffer of a name, valid until the next call for that name."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = self._memory.get(name)
        if memory is None or memory.nbytes < size:
            memory = self._memory[name] = self._allocate(max(SMALLEST, 1 << (size - 1).bit_length()))
        return memory[:size].view(dtype).reshape(shape)

    def _allocate(self, size: int) -> npt.NDArray[np.uint8]:
        # Pages of its own, because a page can be registered once only.
        memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
        if self._runtime is None:
            return memory
        if self._runtime.cudaHostRegister(memory.ctypes.data, size, 0) == 0:
            weakref.finalize(memory, self._runtime.cudaHostUnregister, memory.ctypes.data)
        else:
            self._runtime.cudaGetLastError()  # clears it: the next kernel's check would report it
        return memory


def _cuda_runtime() -> Any:
    """Return CUDA's runtime library; None if it is not loaded."""
    for name in LIBRARIES:
        with contextlib.suppress(OSError):
            runtime = ctypes.CDLL(name)
            runtime.cudaHostRegister.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]
            runtime.cudaHostUnregister.argtypes = [ctypes.c_void_p]
            return runtime
    return None
