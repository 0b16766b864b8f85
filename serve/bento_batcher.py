"""BentoML's adaptive batching (what `@bentoml.api(batchable=True)` uses) in front of the same engine.

A setting, TUNEPORT_BATCHER=bentoml, and a contender in the endpoint benchmark, so that anyone can see whether
`serve.batcher` earns its place. It gathers inputs, one gathering under way at a time; those it hands over run like
tuneport's own, in micro-batches of like length on all streams. It does not bound its queue, and a caller who left
or is late still has its rows run.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bentoml._internal.marshal.dispatcher import CorkDispatcher

from serve.batcher import BatchReport, Result, RunBatch, run_or_raise, stopping
from serve.plan import Budget, plan
from serve.tokenizer import Row

MAX_BATCH_SIZE = 100
MAX_LATENCY_MS = 60_000
"""BentoML's defaults for a batchable API."""


class BentoBatcher:
    """Stands where a `serve.batcher.Batcher` does."""

    def __init__(
        self,
        run: RunBatch,
        *,
        streams: int,
        budget: Budget,
        report: Callable[[BatchReport], object] = lambda _: None,
    ) -> None:
        """`run` is called in a thread of the batcher's own, at most `streams` calls at a time."""
        self._run = run
        self._budget = budget
        self._report = report
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="engine")
        self._dispatcher: CorkDispatcher[Row, Result | Exception] = CorkDispatcher(
            MAX_LATENCY_MS, MAX_BATCH_SIZE, fallback=stopping, get_batch_size=lambda _: 1
        )
        self._ask = self._dispatcher(self._run_all)
        self._closed = False

    async def submit(self, rows: Sequence[Row], deadline: float | None = None) -> list[Result]:
        """Run rows among everyone else's and return their results in order; the deadline is the caller's to keep."""
        if self._closed:
            raise stopping()
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
        """Run what was gathered."""
        results: list[Result | Exception] = [{}] * len(rows)
        gathered = time.monotonic()

        async def run(chosen: list[int]) -> None:
            batch = [rows[i] for i in chosen]
            made, seconds = await asyncio.get_running_loop().run_in_executor(self._pool, run_or_raise, self._run, batch)
            for i, result in zip(chosen, made, strict=True):
                results[i] = result
            waited = time.monotonic() - gathered - seconds
            self._report(BatchReport.of(batch, self._budget, seconds, [waited] * len(batch)))

        await asyncio.gather(*(run(chosen) for chosen in self._batches(rows)))
        return results

    def _batches(self, rows: Sequence[Row]) -> list[list[int]]:
        """Split by group, then by length."""
        groups: dict[object, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(row.group, []).append(index)
        return [
            [members[i] for i in chosen]
            for members in groups.values()
            for chosen in plan([len(rows[i]) for i in members], self._budget)
        ]
