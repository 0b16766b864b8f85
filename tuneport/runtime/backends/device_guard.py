"""Keep what other threads do on a GPU away from the capture of CUDA graphs.

A capture fails (error 900 and its kin) if another thread of the process uses CUDA meanwhile, and so does that thread's
call. A process that serves opens further models and variants, so captures wait for the batches that run, and batches
wait for a capture.
"""

import contextlib
import threading
from collections.abc import Iterator


class DeviceGuard:
    """A readers-writer lock: batches share it, a capture has it alone.

    A capture that waits goes before batches that come later, and batches that waited for it before the next capture, so
    that neither waits for more than one of the other kind. A generation gives way to a capture between two tokens.
    """

    def __init__(self) -> None:
        """Let anything begin."""
        self._changed = threading.Condition()
        self._opening = threading.Lock()
        self._running = 0
        self._waiting = 0
        """Batches that wait."""
        self._turns = 0
        """Batches that waited for the last capture and have not begun yet: they do so before the next one."""
        self._finished = 0
        """Captures that have ended."""
        self._captures = 0
        """Captures that wait or are at work."""
        self._is_capturing = False

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Open sessions and capture graphs in here, one model at a time: opening allocates memory on the device.

        Batches of other models go on, except during a capture.
        """
        with self._opening:
            yield

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run a batch in here."""
        with self._changed:
            self._begin()
        try:
            yield
        finally:
            with self._changed:
                self._end()

    def pause(self) -> None:
        """Let a capture that waits go first; call it in `running`, from the thread that runs, between two steps.

        The kernels of the last step may still be at work. They disturb no capture: only calls of CUDA's do, and this
        thread makes none until it returns.
        """
        with self._changed:
            if self._captures and not self._turns:  # the turns are of batches that have waited already
                self._end()
                self._begin()

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture one graph in here."""
        with self._changed:
            self._captures += 1
            self._changed.wait_for(lambda: not (self._running or self._is_capturing or self._turns))
            self._is_capturing = True
        try:
            yield
        finally:
            with self._changed:
                self._is_capturing = False
                self._captures -= 1
                self._finished += 1
                self._turns = self._waiting
                self._changed.notify_all()

    def _begin(self) -> None:
        if self._captures:
            finished = self._finished
            self._waiting += 1
            self._changed.wait_for(lambda: not self._captures or self._finished > finished)
            self._waiting -= 1
            self._turns = max(0, self._turns - 1)
        self._running += 1

    def _end(self) -> None:
        self._running -= 1
        if self._captures and not self._running:
            self._changed.notify_all()


GUARD = DeviceGuard()
"""That of this process, which uses one GPU."""
