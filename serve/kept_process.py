"""A process that the supervisor starts, and replaces when it ends."""

import logging
import socket
import subprocess
import time
from collections.abc import Sequence

from . import logs

RESTART_PAUSE_S = 1.0
"""A process that has ended is replaced at once, but not more often than this."""


class KeptProcess:
    """One process, which inherits a listening socket."""

    def __init__(
        self, kind: str, number: int, command: Sequence[str], listening: socket.socket, *, own_session: bool = False
    ) -> None:
        """Start nothing yet; `kind` and `number` are for the log.

        With `own_session` the signals of a terminal do not reach the process.
        """
        self._kind = kind
        self._number = number
        self._command = command
        self._listening = listening
        self._own_session = own_session
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = float("-inf")

    def keep_alive(self) -> None:
        """Start the process if it has not been started, or has ended."""
        if self._process is not None:
            code = self._process.poll()
            if code is None or time.monotonic() - self._started_at < RESTART_PAUSE_S:
                return
            fields = {"number": self._number, "pid": self._process.pid, "exit_code": code}
            logs.log(f"{self._kind} ended", logging.ERROR, **fields)
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            pass_fds=[self._listening.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=self._own_session,
        )

    def terminate(self) -> None:
        """Tell the process to stop."""
        if self._process is not None:
            self._process.terminate()

    def wait(self) -> None:
        """Wait for its end, whose time it bounds itself."""
        if self._process is not None:
            self._process.wait()
