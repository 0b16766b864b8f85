"""An engine that workers share, with the workers' side of it, all in this process."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tuneport.runtime.runner import ModelRunner
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.settings import Settings
from tuneport.stages.serve.shared_engine.channel import address_of, listen
from tuneport.stages.serve.shared_engine.front_end import FrontEndInference, open_front_end
from tuneport.stages.serve.shared_engine.row_format import Greeting, RowFormat
from tuneport.stages.serve.shared_engine.server import EngineServer, PublishingBatcher
from tuneport.stages.serve.supervision import RUN_FOLDER

from .engines import StalledEngine


@dataclass
class SharedEngine:
    """An engine that accepts workers."""

    artifact: Path
    settings: Settings
    folder: Path
    inference: Inference
    server: EngineServer
    front_ends: list[FrontEndInference] = field(default_factory=list)

    @property
    def runner(self) -> ModelRunner:
        """The engine's runner."""
        return self.inference.predictor.runner

    async def occupy(self, front_end: FrontEndInference) -> tuple[StalledEngine, list[asyncio.Task[Any]]]:
        """Stall the engine with a row of `front_end` on each of its streams; rows that follow wait."""
        stalled = StalledEngine.of(self.runner, stalled=True)
        tasks = []
        for count in range(1, self.runner.streams + 1):
            tasks.append(asyncio.create_task(front_end.run(["bank"])))
            await stalled.called(count)
        return stalled, tasks

    async def connect(self) -> FrontEndInference:
        """Open a worker's side, which waits for the engine."""
        with mock.patch.dict(os.environ, {RUN_FOLDER: str(self.folder)}):
            front_end = await asyncio.to_thread(open_front_end, self.artifact, self.settings, 1)
        front_end.start(lambda _: None)
        self.front_ends.append(front_end)
        return front_end


@contextlib.asynccontextmanager
async def shared_engine(artifact: Path, folder: Path, **settings: Any) -> AsyncIterator[SharedEngine]:
    """Open an engine in the event loop that runs."""
    chosen = Settings(**{"variant": "fp32", "workers": 2, "engines": 1, **settings})
    inference = Inference.open(artifact, chosen, make_batcher=PublishingBatcher)
    runner = inference.predictor.runner
    greeting = Greeting(runner.limits, runner.streams, RowFormat.of(runner, 0), None)
    server = EngineServer(inference, greeting, listen(address_of(folder, 1), 8))
    engine = SharedEngine(artifact, chosen, folder, inference, server)
    try:
        yield engine
    finally:
        if isinstance(run := getattr(engine.runner, "backend").run, StalledEngine):  # noqa: B009
            run.resume()
        for front_end in engine.front_ends:
            front_end.close()
        server.close()
        inference.close()
