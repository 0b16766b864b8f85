"""NVML, NVIDIA's management library, where it is installed and a driver answers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """Open NVML and yield pynvml, or None without the package, the library, the driver or the permission."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # ImportError, an OSError of the library's, or pynvml's own, by the driver's state
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # the driver may be gone by now
            pynvml.nvmlShutdown()


def ask(pynvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of NVML's; None for what the GPU does not support or this process may not ask."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def text(value: str | bytes) -> str:
    """Return what NVML gives as bytes in some versions."""
    return value.decode() if isinstance(value, bytes) else value
