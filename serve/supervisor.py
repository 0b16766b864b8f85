"""The supervisor of `tuneport serve`: it opens HTTP's port, starts the workers, and replaces those that end.

python -m tuneport.stages.serve.supervisor ARTIFACT --host HOST --port PORT

`bentoml serve` has BentoML's supervisor instead. This one imports neither BentoML nor an engine, so that the workers
start at once.
"""

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

from tuneport import telemetry
from tuneport.errors import TuneportError
from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST

from . import lifecycle, logs, supervision
from .deployment import prepare_deployment, with_workers
from .process import listen
from .settings import read_settings

WORKER = "tuneport.stages.serve.standalone"
BACKLOG = 2048
POLL_S = 0.1
RESTART_PAUSE_S = 1.0
"""A worker that has ended is replaced at once, but not more often than this."""
MAX_FAILED_STARTS = 3
"""Workers of one number that may end in a row without having been ready, while no other worker is ready."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Keeps a number of workers alive on one listening socket."""

    def __init__(self, artifact: Path, listening: socket.socket, workers: int) -> None:
        """Start no worker yet. All of them serve the artifact that is in the folder now."""
        descriptor = str(listening.fileno())
        options = ["--fd", descriptor, "--manifest", sha256(artifact / MANIFEST)]
        self._command = [sys.executable, "-P", "-m", WORKER, str(artifact), *options]
        self._listening = listening
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._started_at = dict.fromkeys(range(1, workers + 1), float("-inf"))
        self._failed_starts = dict.fromkeys(self._started_at, 0)
        self._is_stopping = Event()
        self.failure: TuneportError | None = None
        """Why no worker can serve."""

    def run(self) -> None:
        """Start the workers and keep them alive until a signal to stop comes; return when all have ended.

        Give up, with `failure` set, if workers end before they are ready and none serves. What a worker knows of its
        failed start it has reported itself; here it failed before that, in an import or in native code.
        """
        for each in STOP_SIGNALS:
            signal.signal(each, lambda *_: self._is_stopping.set())
        while not self._is_stopping.is_set():
            for number in self._started_at:
                self._keep_alive(number)
            self._is_stopping.wait(POLL_S)
        self._listening.close()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait()  # each worker bounds the time that it takes

    def _keep_alive(self, number: int) -> None:
        """Start a worker that has not been started, or has ended."""
        process = self._processes.get(number)
        if process is not None:
            code = process.poll()
            if code is None or time.monotonic() - self._started_at[number] < RESTART_PAUSE_S:
                return
            logs.log("worker ended", logging.ERROR, number=number, pid=process.pid, exit_code=code)
            self._failed_starts[number] = 0 if supervision.was_ready(process.pid) else self._failed_starts[number] + 1
            if self._failed_starts[number] >= MAX_FAILED_STARTS and not self._is_any_ready():
                problem = (
                    f"{MAX_FAILED_STARTS} workers in a row ended before they were ready, the last with code {code}"
                )
                self.failure = TuneportError(problem, "see the service's log")
                self._is_stopping.set()
                return
        self._started_at[number] = time.monotonic()
        self._processes[number] = subprocess.Popen(
            [*self._command, "--number", str(number)],
            pass_fds=[self._listening.fileno()],
            stdin=subprocess.DEVNULL,
        )

    def _is_any_ready(self) -> bool:
        alive = [process.pid for process in self._processes.values() if process.poll() is None]
        return any(map(supervision.was_ready, alive))


def main() -> None:
    """Serve until a signal to stop comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    telemetry.switch_off()
    settings = with_workers(read_settings(), options.artifact)
    prepare_deployment(settings, options.artifact)
    try:
        listening = listen(options.host, options.port, BACKLOG)
        logs.log("listening", host=options.host, port=options.port, workers=settings.worker_count, pid=os.getpid())
        supervisor = Supervisor(options.artifact, listening, settings.worker_count)
        supervisor.run()
        if supervisor.failure:
            raise supervisor.failure
    except TuneportError as error:
        lifecycle.report_failed_start(error)
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
