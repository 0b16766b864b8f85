"""The supervisor of `tuneport serve`: it opens HTTP's port, starts workers and engines, and replaces those that end.

python -m tuneport.stages.serve.supervisor ARTIFACT [ARTIFACT…] --host HOST --port PORT

`bentoml serve` has BentoML's supervisor instead. This one imports neither BentoML nor an engine, so that the workers
start at once.
"""

import argparse
import os
import signal
import socket
import time
from pathlib import Path

from tuneport import telemetry
from tuneport.errors import TuneportError
from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST

from . import lifecycle, logs, supervision
from .deployment import prepare_deployment, with_workers
from .kept_process import STOP_MARGIN_S, KeptProcess
from .process import listen
from .process_arguments import ProcessArguments
from .settings import read_settings
from .shared_engine.keeper import ENGINE, EngineKeeper

WORKER = "tuneport.stages.serve.standalone"
BACKLOG = 2048
POLL_S = 0.1
MAX_FAILED_STARTS = 3
"""Processes that may end in a row without having been ready, while no worker is ready."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Keeps a number of workers alive on one listening socket, and the engine processes that they share."""

    def __init__(
        self, artifact: Path, listening: socket.socket, workers: int, engines: EngineKeeper, *, stop_limit_s: float
    ) -> None:
        """Start no process yet. All of them serve the artifact that is in the folder now.

        Workers that have not ended `stop_limit_s` after a signal to stop are killed soon after.
        """
        manifest_hash = sha256(artifact / MANIFEST)
        self._workers = []
        for number in range(1, workers + 1):
            command = ProcessArguments(artifact, listening, number, manifest_hash).command(WORKER)
            self._workers.append(KeptProcess(supervision.WORKER, number, command, listening))
        self._engines = engines
        self._listening = listening
        self._stop_limit_s = stop_limit_s
        self._is_stopping = False
        self.failure: TuneportError | None = None
        """Why no worker can serve."""

    def run(self) -> None:
        """Start the processes and keep them alive until a signal to stop comes; return when all have ended.

        Give up, with `failure` set, if processes end before they are ready and no worker serves. A process that knows
        why it cannot start reports that itself; one that is counted here failed earlier, in an import or native code.
        """
        for each in STOP_SIGNALS:
            signal.signal(each, self._stop)
        while not (self._is_stopping or self._can_none_serve()):
            self._engines.keep_alive()
            for worker in self._workers:
                worker.keep_alive()
            time.sleep(POLL_S)
        self._listening.close()
        for worker in self._workers:
            worker.terminate()
        ends_at = time.monotonic() + self._stop_limit_s + STOP_MARGIN_S
        for worker in self._workers:
            worker.wait(ends_at)
        self._engines.stop()

    def _stop(self, *_: object) -> None:
        """Note a signal; it may come at any point of the main thread, so that nothing is locked here."""
        self._is_stopping = True

    def _can_none_serve(self) -> bool:
        """Tell whether processes of a kind end again and again before they are ready, and set `failure`."""
        processes = [*self._workers, *self._engines.processes]
        for process in processes:
            process.notice_end()
        worst = max(processes, key=lambda each: each.failed_starts)
        if worst.failed_starts < MAX_FAILED_STARTS or any(worker.is_ready for worker in self._workers):
            return False
        problem = f"{worst.failed_starts} {worst.kind}s in a row ended before they were ready"
        self.failure = TuneportError(f"{problem}, the last with code {worst.exit_code}", "see the service's log")
        return True


def main(engine_module: str = ENGINE) -> None:
    """Serve until a signal to stop comes; shared engines are processes of `engine_module`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact", type=Path)
    parser.add_argument("more", type=Path, nargs="*")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    telemetry.switch_off()
    settings = with_workers(read_settings(), options.artifact)
    engines = prepare_deployment(settings, options.artifact, engine_module, options.more)
    try:
        listening = listen(options.host, options.port, BACKLOG)
        fields = {"workers": settings.worker_count, "engines": settings.engine_count, "pid": os.getpid()}
        logs.log("listening", host=options.host, port=options.port, **fields)
        stop_limit_s = lifecycle.stop_limit_s(settings)
        supervisor = Supervisor(options.artifact, listening, settings.worker_count, engines, stop_limit_s=stop_limit_s)
        supervisor.run()
        if supervisor.failure:
            raise supervisor.failure
    except TuneportError as error:
        raise lifecycle.failed_start_exit(error) from error


if __name__ == "__main__":
    main()
