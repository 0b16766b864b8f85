"""An engine that workers share, with the workers' side of it, all in this process."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.settings import Settings
from tuneport.stages.serve.shared_engine.channel import address_of, listen
from tuneport.stages.serve.shared_engine.front_end import FrontEndInference, open_front_end
from tuneport.stages.serve.shared_engine.row_format import Greeting, RowFormat
from tuneport.stages.serve.shared_engine.server import EngineServer, PublishingBatcher
from tuneport.stages.serve.supervision import RUN_FOLDER


@dataclass
class SharedEngine:
    """An engine that accepts workers."""

    artifact: Path
    settings: Settings
    folder: Path
    inference: Inference
    server: EngineServer

    async def connect(self) -> FrontEndInference:
        """Open a worker's side, which waits for the engine."""
        with mock.patch.dict(os.environ, {RUN_FOLDER: str(self.folder)}):
            front_end = await asyncio.to_thread(open_front_end, self.artifact, self.settings, 1)
        front_end.start(lambda _: None)
        return front_end


@contextlib.asynccontextmanager
async def shared_engine(artifact: Path, folder: Path, **settings: Any) -> AsyncIterator[SharedEngine]:
    """Open an engine in the event loop that runs."""
    chosen = Settings(**{"variant": "fp32", "workers": 2, "engines": 1, **settings})
    inference = Inference.open(artifact, chosen, make_batcher=PublishingBatcher)
    runner = inference.predictor.runner
    greeting = Greeting(runner.limits, runner.streams, RowFormat.of(runner, 0), None)
    server = EngineServer(inference, greeting, listen(address_of(str(folder), 1), 8))
    try:
        yield SharedEngine(artifact, chosen, folder, inference, server)
    finally:
        server.close()
        inference.close()
