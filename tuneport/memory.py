"""Give freed memory back to the system."""

import ctypes
from collections.abc import Callable


def trim_memory() -> None:
    """Return freed memory to the system where the C library can: glibc keeps what lies below anything still in use."""
    if _trim is not None:
        _trim(0)


def _find_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None
    return found


_trim = _find_trim()
