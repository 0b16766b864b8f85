"""Give memory back between the steps of an export, each of which needs much for a short time."""

import ctypes
import gc
import sys


def release_memory() -> None:
    """Return freed memory to the system and to the GPU.

    glibc keeps what lies below anything that is still in use, and torch all that it has allocated on a GPU.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library
        return
