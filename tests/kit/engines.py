"""An engine that tests can stall, to see what happens to requests that wait."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from tuneport.runtime.runner import EncoderRunner, ModelRunner

TIMEOUT_S = 30.0


class StalledEngine:
    """Calls an engine, records what each call was given, and holds calls back while it is stalled."""

    def __init__(self, run: Callable[[Any], Any], *, stalled: bool = False) -> None:
        """Wrap `run`: a backend's, which takes a `Batch`, or a batcher's, which takes rows."""
        self.calls: list[Any] = []
        self._run = run
        self._running = threading.Event()
        if not stalled:
            self._running.set()

    @classmethod
    def of(cls, runner: ModelRunner, *, stalled: bool = False) -> Self:
        """Put a stalled engine in the place of a runner's backend."""
        assert isinstance(runner, EncoderRunner)
        engine = cls(runner.backend.run, stalled=stalled)
        runner.backend.run = engine  # type: ignore[method-assign]
        return engine

    def __call__(self, batch: Any) -> Any:
        """Run a batch, as soon as the engine is not stalled."""
        self.calls.append(batch)
        assert self._running.wait(TIMEOUT_S)
        return self._run(batch)

    def stall(self) -> None:
        """Hold back every call from now on."""
        self._running.clear()

    def resume(self) -> None:
        """Let the calls that are held back run, and all that follow."""
        self._running.set()

    async def called(self, count: int = 1) -> None:
        """Wait until the engine has been called `count` times, in the event loop."""
        await until(lambda: len(self.calls) >= count)


def fail_with(runner: ModelRunner, error: Exception) -> None:
    """Make every batch of a runner's backend raise an error."""

    def run(_: Any) -> Any:
        raise error

    assert isinstance(runner, EncoderRunner)
    runner.backend.run = run  # type: ignore[method-assign]


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition in the event loop."""
    limit = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.001)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for a condition in a thread."""
    limit = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)
