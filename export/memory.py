"""Give memory back between the steps of an export, each of which needs much for a short time."""

import ctypes
import gc


def release_memory() -> None:
    """Return freed memory to the system: glibc keeps what lies below anything that is still in use."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library
        return
