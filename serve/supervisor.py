"""The supervisor of `tuneport serve`: it opens HTTP's port, starts workers and engines, and replaces those that end.

python -m tuneport.stages.serve.supervisor ARTIFACT --host HOST --port PORT

`bentoml serve` has BentoML's supervisor instead. This one imports neither BentoML nor an engine, so that the workers
start at once.
"""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path
from threading import Event

from tuneport import telemetry
from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST

from . import logs
from .deployment import prepare_deployment, with_workers
from .kept_process import KeptProcess
from .settings import read_settings
from .shared_engine.keeper import ENGINE, EngineKeeper

WORKER = "tuneport.stages.serve.standalone"
BACKLOG = 2048
POLL_S = 0.1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Keeps a number of workers alive on one listening socket, and the engine processes that they share."""

    def __init__(self, artifact: Path, listening: socket.socket, workers: int, engines: EngineKeeper) -> None:
        """Start no process yet. All of them serve the artifact that is in the folder now."""
        options = ["--fd", str(listening.fileno()), "--manifest", sha256(artifact / MANIFEST)]
        command = [sys.executable, "-P", "-m", WORKER, str(artifact), *options, "--number"]
        numbers = range(1, workers + 1)
        self._workers = [KeptProcess("worker", each, [*command, str(each)], listening) for each in numbers]
        self._engines = engines
        self._listening = listening
        self._is_stopping = Event()

    def run(self) -> None:
        """Start the processes and keep them alive until a signal to stop comes; return when all have ended."""
        for each in STOP_SIGNALS:
            signal.signal(each, lambda *_: self._is_stopping.set())
        while not self._is_stopping.is_set():
            self._engines.keep_alive()
            for worker in self._workers:
                worker.keep_alive()
            self._is_stopping.wait(POLL_S)
        self._listening.close()
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait()
        self._engines.stop()


def listen(host: str, port: int) -> socket.socket:
    """Open the port of HTTP."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(BACKLOG)
    return listening


def main(engine_module: str = ENGINE) -> None:
    """Serve until a signal to stop comes; shared engines are processes of `engine_module`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    telemetry.switch_off()
    settings = with_workers(read_settings(), options.artifact)
    engines = prepare_deployment(settings, options.artifact, engine_module)
    listening = listen(options.host, options.port)
    fields = {"workers": settings.worker_count, "engines": settings.engine_count, "pid": os.getpid()}
    logs.log("listening", host=options.host, port=options.port, **fields)
    Supervisor(options.artifact, listening, settings.worker_count, engines).run()


if __name__ == "__main__":
    main()
