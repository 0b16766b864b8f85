"""BentoML's adaptive batching (what `@bentoml.api(batchable=True)` uses) in front of the same engine.

A setting, TUNEPORT_BATCHER=bentoml, and a contender in the endpoint benchmark, so that anyone can see whether
`serve.batcher` earns its place. It counts rows, not tokens; what it gathers runs as one batch, one at a time, as
BentoML's documentation has it. Its queue has no end, and a caller who left or is late still has its rows run.
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bentoml._internal.marshal.dispatcher import CorkDispatcher

from serve.batcher import BatchReport, Result, RunBatch, run_or_raise, stopping
from serve.plan import Budget
from serve.tokenizer import Row

MAX_BATCH_SIZE = 100
MAX_LATENCY_MS = 60_000
"""BentoML's defaults for a batchable API."""


class BentoBatcher:
    """Stands where a `serve.batcher.Batcher` does."""

    def __init__(
        self, run: RunBatch, *, budget: Budget, report: Callable[[BatchReport], object] = lambda _: None
    ) -> None:
        """`run` is called in a thread of the batcher's own, one call at a time."""
        self._run = run
        self._budget = budget
        self._report = report
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._dispatcher: CorkDispatcher[Row, Result | Exception] = CorkDispatcher(
            MAX_LATENCY_MS, MAX_BATCH_SIZE, fallback=stopping, get_batch_size=lambda _: 1
        )
        self._ask = self._dispatcher(self._run_all)
        self._closed = False

    def check_room(self, rows: int = 1) -> None:
        """Refuse nothing: this queue has no end."""
        if self._closed:
            raise stopping()

    async def submit(self, rows: Sequence[Row], deadline: float | None = None) -> list[Result]:
        """Run rows among everyone else's and return their results in order; the deadline is the caller's to keep."""
        self.check_room(len(rows))
        made = await asyncio.gather(*(self._ask(row) for row in rows))
        for result in made:
            if isinstance(result, Exception):
                raise result
        return made

    @property
    def waiting(self) -> int:
        """Rows that wait to be gathered."""
        return len(self._dispatcher._queue)

    def close(self) -> None:
        """Refuse what waits, let running batches end and stop the threads."""
        self._closed = True
        self._dispatcher.shutdown()
        self._pool.shutdown()

    async def _run_all(self, rows: Sequence[Row]) -> list[Result | Exception]:
        """Run what was gathered: one batch, but for rows that an engine cannot run together."""
        results: list[Result | Exception] = [{}] * len(rows)
        groups: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(row.group, []).append(index)
        for members in groups.values():
            batch, began = [rows[i] for i in members], time.monotonic()
            running = asyncio.get_running_loop().run_in_executor(self._pool, run_or_raise, self._run, batch)
            made, seconds = await running
            for i, result in zip(members, made, strict=True):
                results[i] = result
            waited_s = time.monotonic() - began - seconds
            self._report(BatchReport.of(batch, self._budget, seconds, [waited_s] * len(batch)))
        return results
