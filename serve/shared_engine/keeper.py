"""Start the engine processes that workers share, and replace those that end."""

import socket
import threading
import time
from pathlib import Path

from tuneport.errors import TuneportError

from .. import supervision
from ..kept_process import STOP_MARGIN_S, KeptProcess
from ..lifecycle import FORCED_EXIT_S
from ..process_arguments import ProcessArguments
from .channel import address_of, listen

ENGINE = "tuneport.stages.serve.shared_engine.process"
POLL_S = 0.1
BACKLOG = 512
"""As many workers as there may be: they connect while the engine opens the artifact."""


class EngineKeeper:
    """The engine processes of one service.

    Their sockets stay open while a process is replaced, so that workers can wait there for the next one. Ctrl-C stops
    workers first, and engines when no worker needs them.
    """

    def __init__(self, artifact: Path, engines: int, folder: Path, manifest_hash: str, module: str = ENGINE) -> None:
        """Open the sockets in the service's folder; no process is started yet.

        Raises TuneportError for a folder whose path is too long for a socket.
        """
        self.processes: list[KeptProcess] = []
        for number in range(1, engines + 1):
            listening = _listen(address_of(folder, number))
            command = ProcessArguments(artifact, listening, number, manifest_hash).command(module)
            self.processes.append(KeptProcess(supervision.ENGINE, number, command, listening, own_session=True))

    def keep_alive(self) -> None:
        """Start each process that has not been started, or has ended."""
        for process in self.processes:
            process.keep_alive()

    def keep_alive_in_background(self) -> None:
        """Do so in a thread, until this process ends; the engine processes end with it."""

        def keep() -> None:
            while True:
                self.keep_alive()
                time.sleep(POLL_S)

        threading.Thread(target=keep, name="engines", daemon=True).start()

    def stop(self) -> None:
        """Stop the processes, and kill those that do not end. Call it when the workers have ended."""
        for process in self.processes:
            process.terminate()
        ends_at = time.monotonic() + FORCED_EXIT_S + STOP_MARGIN_S
        for process in self.processes:
            process.wait(ends_at)


def _listen(address: Path) -> socket.socket:
    try:
        return listen(address, BACKLOG)
    except OSError as error:
        problem = f"the engine process cannot listen on {address} ({error})"
        raise TuneportError(problem, "set TMPDIR to a folder with a shorter path that can be written") from error
