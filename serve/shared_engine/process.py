"""The engine process: opens the artifact, and runs the rows of all workers that connect.

python -m tuneport.stages.serve.shared_engine.process ARTIFACT --fd SOCKET --number N --manifest HASH
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from tuneport.errors import ArtifactError
from tuneport.schema.loading import load_manifest

from .. import lifecycle, logs, supervision
from ..devices import place_worker
from ..inference import Inference
from ..metrics.engine import EngineMetrics
from ..metrics.families import Families
from ..metrics.labelled import LabelledFamilies
from ..origin import check_manifest
from ..process_arguments import ProcessArguments
from ..settings import Settings, read_settings
from .row_format import Greeting, RowFormat
from .server import EngineServer, PublishingBatcher

POLL_S = 0.05


class EngineProcess:
    """An artifact that is open, and the socket on which workers ask for it."""

    def __init__(
        self, artifact: Path, settings: Settings, *, number: int, manifest_hash: str, listening: socket.socket
    ) -> None:
        """Open the artifact and check its golden cases. What fails is reported as a worker's failed start is."""
        logs.set_up_process()
        supervision.prepare_worker(settings.shutdown_grace_s)
        try:
            check_manifest(artifact, manifest_hash)
            placement = place_worker(load_manifest(artifact).variant(settings.variant).execution, number)
            self.inference = Inference.open(artifact, settings, make_batcher=PublishingBatcher)
            model, families = self.inference.predictor.describe(), Families(processes=settings.process_count)
            self._metrics = EngineMetrics(LabelledFamilies(model, families, placement))
            self._metrics.record(self.inference)
            self._greeting = self._greet(manifest_hash)
        except Exception as error:
            may_pass = supervision.was_any_ready(supervision.ENGINE) and not isinstance(error, ArtifactError)
            if may_pass:  # the device or memory may be there again soon: the supervisor decides how often to try
                logs.log("failed start", logging.ERROR, exc_info=error, reason=str(error)[:500])
            else:
                lifecycle.report_failed_start(error)
            raise
        self._settings = settings
        self._number = number
        self._listening = listening

    async def serve(self) -> None:
        """Run rows until SIGTERM comes, or the device is lost, and the workers need them no more."""
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, stopping.set)
        self.inference.on_device_lost = lambda: loop.call_soon_threadsafe(self._leave, stopping)
        server = EngineServer(self.inference, self._greeting, self._listening)
        gc.collect()
        gc.freeze()  # what was imported and opened lives as long as the process
        supervision.report_ready(supervision.ENGINE)
        logs.log("engine ready", model=self.inference.predictor.describe(), engine=self._number, pid=os.getpid())
        await stopping.wait()
        lifecycle.end_by_force_after(self._settings.shutdown_grace_s + lifecycle.FORCED_EXIT_S)
        await self._drain(server)
        lifecycle.end_by_force_after(lifecycle.FORCED_EXIT_S)  # nobody waits for rows any more
        server.close()
        self.inference.close()

    async def _drain(self, server: EngineServer) -> None:
        """Wait for rows that run or wait; and for workers that have to stop, too, because their supervisor ended."""
        ends_at = time.monotonic() + self._settings.shutdown_grace_s
        while server.sessions and time.monotonic() < ends_at and (server.is_busy or supervision.is_orphan()):
            await asyncio.sleep(POLL_S)

    def _leave(self, stopping: asyncio.Event) -> None:
        """Stop because the device is lost: rows get errors, and another process takes this one's place."""
        logs.log("device lost", logging.ERROR, because=self.inference.lost_because, pid=os.getpid())
        self._metrics.device_lost()
        stopping.set()

    def _greet(self, manifest_hash: str) -> Greeting:
        """Return what workers must know, after a row has run that tells the outputs' shapes."""
        predictor = self.inference.predictor
        row_format = RowFormat.of(predictor.runner, predictor.manifest.processing.pad_token_id)
        return Greeting(predictor.runner.limits, predictor.runner.streams, row_format, manifest_hash)


def main(adapt: Callable[[Inference], object] = lambda _: None) -> None:
    """Serve workers until a signal to stop comes; `adapt` may change the engine that was opened."""
    artifact, listening, number, manifest_hash = ProcessArguments.parse()
    try:
        process = EngineProcess(
            artifact, read_settings(), number=number, manifest_hash=manifest_hash, listening=listening
        )
    except Exception as error:  # reported already
        raise SystemExit(1) from error
    adapt(process.inference)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(process.serve())


if __name__ == "__main__":
    main()
