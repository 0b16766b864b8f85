"""The worker's side: a batcher whose queue and engine are in another process."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tuneport.errors import EngineLost, ServiceStopping
from tuneport.runtime.batch import EncodedInput, RowOutputs

from ..admission_policy import AdmissionPolicy
from .connection import Connection
from .queue_state import RemoteQueue

RETRY_S = 0.2
"""Pause before it is tried again to connect."""


class EngineClient:
    """A `RowBatcher` that sends rows to an engine process, and connects again when that was replaced."""

    def __init__(self, address: Path, *, max_queue_inputs: int, max_queue_s: float | None) -> None:
        """Connect, and wait until the engine is ready. Raises what `Connection.open` raises."""
        self._address = address
        self.max_queue_inputs = max_queue_inputs
        self._max_queue_s = max_queue_s
        self._is_closed = False
        self.connection = Connection.open(address)
        self._queue = self._remote_queue()
        self.is_ready = True
        """Whether the engine process is there."""
        self._on_ready: Callable[[bool], object] = lambda _: None

    def start(self, on_ready: Callable[[bool], object]) -> None:
        """Receive outputs in the event loop that runs; `on_ready` is called there when `is_ready` changes."""
        self._on_ready = on_ready
        self.connection.attach(self._lost)

    @property
    def waiting(self) -> int:
        """Count the rows in the engine's queue, those of other workers included."""
        return len(self._queue)

    def check_capacity(self, rows: int = 1, *, tokens: int = 0, deadline: float | None = None) -> None:
        """Raise what `Batcher.check_capacity` raises, and EngineLost while there is no engine process."""
        self._check_engine()
        self._queue.check_capacity(rows, tokens=tokens, deadline=deadline)

    async def submit(self, rows: Sequence[EncodedInput], deadline: float | None = None) -> list[RowOutputs]:
        """Run rows in batches with those of all workers and return their outputs in order.

        Raises what `Batcher.submit` raises, and EngineLost if the engine process ends before it has answered.
        """
        self._check_engine()
        connection, outputs = self.connection, asyncio.get_running_loop().create_future()
        number = connection.submit(rows, deadline, outputs)
        try:
            return await outputs
        finally:
            if outputs.cancelled():
                connection.cancel(number)

    def close(self) -> None:
        """Disconnect; requests that wait get ServiceStopping."""
        self._is_closed = True
        self.connection.close(ServiceStopping)

    def _check_engine(self) -> None:
        if self._is_closed:
            raise ServiceStopping
        if not self.is_ready:
            raise EngineLost

    def _lost(self) -> None:
        """Wait in a thread for the process that replaces the engine's."""
        self.is_ready = False
        self._on_ready(False)
        loop = asyncio.get_running_loop()

        def connect() -> None:
            while not self._is_closed:
                try:
                    connection = Connection.open(self._address)
                except (OSError, EngineLost):
                    time.sleep(RETRY_S)
                    continue
                with contextlib.suppress(RuntimeError):  # the loop was closed
                    loop.call_soon_threadsafe(self._connected, connection)
                return

        threading.Thread(target=connect, name="engine", daemon=True).start()

    def _connected(self, connection: Connection) -> None:
        if self._is_closed:
            connection.close(ServiceStopping)
            return
        self.connection = connection
        self._queue = self._remote_queue()
        connection.attach(self._lost)
        self.is_ready = True
        self._on_ready(True)

    def _remote_queue(self) -> RemoteQueue:
        greeting = self.connection.greeting
        policy = AdmissionPolicy(
            streams=greeting.streams, batch_tokens=greeting.limits.tokens, max_wait_s=self._max_queue_s
        )
        return RemoteQueue(self.connection.page, policy, self.max_queue_inputs)
