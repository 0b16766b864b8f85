"""A process that the supervisor starts, and replaces when it ends."""

import contextlib
import logging
import socket
import subprocess
import time
from collections.abc import Sequence

from . import logs, supervision

STOP_MARGIN_S = 2.0
"""Time from when a process should have ended itself by force until it is killed."""
KILL_TIMEOUT_S = 2.0
"""How long to wait for the end of a process that was killed: one that hangs in a driver may never end."""
RESTART_PAUSE_S = 1.0
"""A process that has ended is replaced at once, but not more often than this."""


class KeptProcess:
    """One process, which inherits a listening socket."""

    def __init__(
        self, kind: str, number: int, command: Sequence[str], listening: socket.socket, *, own_session: bool = False
    ) -> None:
        """Start nothing yet; `kind` is one of `supervision`, `number` counts those of its kind.

        With `own_session` the signals of a terminal do not reach the process.
        """
        self.kind = kind
        self.failed_starts = 0
        """How many processes in a row ended before they were ready."""
        self.exit_code = 0
        """Of the last process that ended."""
        self._number = number
        self._command = command
        self._listening = listening
        self._own_session = own_session
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = float("-inf")

    @property
    def is_ready(self) -> bool:
        """Whether the process runs and is ready."""
        process = self._process
        return process is not None and process.poll() is None and supervision.was_ready(self.kind, process.pid)

    def notice_end(self) -> None:
        """Log and count the end of a process that has ended."""
        code = self._process.poll() if self._process else None
        if self._process is None or code is None:
            return
        logs.log(f"{self.kind} ended", logging.ERROR, number=self._number, pid=self._process.pid, exit_code=code)
        was_ready = supervision.was_ready(self.kind, self._process.pid)
        self.failed_starts = 0 if was_ready else self.failed_starts + 1
        self.exit_code = code
        self._process = None

    def keep_alive(self) -> None:
        """Start the process if it has not been started, or has ended."""
        self.notice_end()
        if self._process is not None or time.monotonic() - self._started_at < RESTART_PAUSE_S:
            return
        self._started_at = time.monotonic()
        try:
            self._process = subprocess.Popen(
                self._command,
                pass_fds=[self._listening.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=self._own_session,
            )
        except OSError as error:  # too little memory, or too many processes: tried again
            logs.log(f"{self.kind} not started", logging.ERROR, number=self._number, reason=str(error))

    def terminate(self) -> None:
        """Tell the process to stop."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, ends_at: float) -> None:
        """Wait for its end, until a time of the monotonic clock; then kill it."""
        process = self._process
        if process is None:
            return
        try:
            process.wait(max(0.0, ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            logs.log(f"{self.kind} killed", logging.ERROR, number=self._number, pid=process.pid, reason="does not end")
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_TIMEOUT_S)
