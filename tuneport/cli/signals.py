"""SIGINT, SIGTERM and SIGHUP: unwind once, so that half-written folders are removed before the process ends."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

INTERRUPTED = "interrupted; nothing half-written was left behind"
REPEAT_WINDOW_S = 3.0
"""A second signal within this time is the same request, and does not interrupt the cleaning up."""
_received: list[float] = []
"""Times of the signals, of `time.monotonic`."""


def exit_on_signals() -> None:
    """End the process at once on a signal: while commands are imported, and after one, there is nothing to clean up.

    An exception would turn into others on its way through a library's imports, and be printed by the interpreter's end.
    """
    _handle_with(_exit)


def install_handlers() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into a KeyboardInterrupt, unless whoever started this process ignores them."""
    _received.clear()
    _handle_with(_interrupt)


def was_interrupted() -> bool:
    """Whether a signal came, though a library may have swallowed its KeyboardInterrupt."""
    return bool(_received)


def raise_if_interrupted() -> None:
    """Raise the KeyboardInterrupt that a library swallowed, as pybind11 does while it imports a module."""
    if _received:
        raise KeyboardInterrupt


@contextlib.contextmanager
def explain_resume(out: Path) -> Iterator[None]:
    """Say, when training or a search is interrupted after its start, that --resume continues it."""
    from tuneport.schema.run import RUN, SETTINGS  # not before the first handler is installed

    try:
        yield
    except KeyboardInterrupt as error:
        if not (out / SETTINGS).is_file() or (out / RUN).is_file():
            raise
        raise KeyboardInterrupt(f"interrupted; the same command with --resume continues {out}") from error


@contextlib.contextmanager
def explain_interruption(message: str) -> Iterator[None]:
    """Say `message` when the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(message) from error


def _handle_with(handler: Callable[..., None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _exit(*_: Any) -> None:
    if _received and time.monotonic() - _received[-1] <= REPEAT_WINDOW_S:
        return
    with contextlib.suppress(OSError):  # of a stderr that is closed
        os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)


def _interrupt(*_: Any) -> None:
    _received.append(time.monotonic())
    if len(_received) == 1 or _received[-1] - _received[-2] > REPEAT_WINDOW_S:
        raise KeyboardInterrupt
