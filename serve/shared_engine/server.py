"""The engine's side: rows of all workers go into one queue, so that batches are made of all of them."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson

from tuneport.runtime.batch import EncodedInput, RowOutputs, RunBatch

from ..batcher import Batcher
from ..inference import Inference
from .messages import Answer
from .queue_state import QueuePage
from .row_format import Greeting
from .session import Session


class PublishingBatcher(Batcher):
    """A batcher that publishes the state of its queue, by which workers admit requests."""

    def __init__(self, run: RunBatch, **settings: Any) -> None:
        """Start the threads as `Batcher` does, with its settings."""
        self.page = QueuePage()

        def publish_and_run(rows: Sequence[EncodedInput]) -> list[RowOutputs]:
            self.publish()
            return run(rows)

        super().__init__(publish_and_run, **settings)

    def publish(self) -> None:
        """Publish the queue's state; in any thread."""
        self.page.publish(self._queue)

    def close(self) -> None:
        """Stop as `Batcher` does."""
        super().close()
        self.page.close()


class EngineServer:
    """Accepts workers, in the event loop that runs."""

    def __init__(self, inference: Inference, greeting: Greeting, listening: socket.socket) -> None:
        """Accept workers from now on; `inference` has a `PublishingBatcher`."""
        assert isinstance(inference.batcher, PublishingBatcher)
        self._batcher = inference.batcher
        self._row_format = greeting.row_format
        self._greeting = bytes([Answer.GREETING]) + orjson.dumps(asdict(greeting))
        self._listening = listening
        self._loop = asyncio.get_running_loop()
        self._is_publishing = False
        self.sessions: set[Session] = set()
        listening.setblocking(False)
        self._loop.add_reader(listening, self._accept)

    @property
    def is_busy(self) -> bool:
        """Whether some worker waits for outputs."""
        return any(session.is_busy for session in self.sessions)

    def close(self) -> None:
        """Accept no more workers, and leave those that are connected."""
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()
        for session in list(self.sessions):
            session.close()

    def _publish_soon(self) -> None:
        """Publish the queue's state once, when all requests of this turn of the event loop are in the queue."""
        if not self._is_publishing:
            self._is_publishing = True
            self._loop.call_soon(self._publish)

    def _publish(self) -> None:
        self._is_publishing = False
        self._batcher.publish()

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError:  # the worker has just ended
            return
        session = Session(connection, self._row_format, self._run, on_close=self.sessions.discard)
        self.sessions.add(session)
        session.greet(self._greeting, self._batcher.page.descriptor)

    async def _run(self, rows: Sequence[EncodedInput], deadline: float | None) -> list[RowOutputs]:
        self._publish_soon()
        try:
            return await self._batcher.submit(rows, deadline)
        finally:
            self._publish_soon()
