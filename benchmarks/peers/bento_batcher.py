"""BentoML's adaptive batching, as `@bentoml.api(batchable=True)` uses it, in front of tuneport's engine.

The endpoint benchmark compares it with `tuneport.stages.serve.batcher`. It counts rows, not tokens, and runs what it
gathers as one batch, one at a time, as BentoML's documentation describes. Its queue is unbounded, and rows run even
if their caller has left or their deadline has passed.
"""

import asyncio
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bentoml._internal.marshal.dispatcher import CorkDispatcher

from tuneport.errors import ServiceStopping
from tuneport.runtime.batch import EncodedInput, RowOutputs, RunBatch
from tuneport.runtime.runner import run_isolated
from tuneport.runtime.scheduler import BatchLimits
from tuneport.stages.serve.batcher import BatchReport, Report

MAX_BATCH_SIZE = 100
MAX_LATENCY_MS = 60_000
"""BentoML's defaults for a batchable API."""


class BentoBatcher:
    """A `RowBatcher` that delegates to BentoML's dispatcher."""

    def __init__(
        self,
        run: RunBatch,
        *,
        streams: int = 1,
        limits: BatchLimits,
        max_queue_inputs: int | None = None,
        max_queue_s: float | None = None,
        report: Report = lambda _: None,
    ) -> None:
        """Start the engine's thread, in which `run` is called, one call at a time; `report` learns of every batch.

        `limits` only tell how many tokens of a batch are padding. BentoML's batcher has no streams and no bound on
        its queue: `streams`, `max_queue_inputs` and `max_queue_s` have no effect.
        """
        self._run = run
        self._limits = limits
        self._report = report
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._dispatcher: CorkDispatcher[EncodedInput, RowOutputs | Exception] = CorkDispatcher(
            MAX_LATENCY_MS, MAX_BATCH_SIZE, fallback=ServiceStopping, get_batch_size=lambda _: 1
        )
        self._dispatch = self._dispatcher(self._run_rows)
        self._closed = False

    def check_capacity(self, rows: int = 1, *, tokens: int = 0, deadline: float | None = None) -> None:
        """Raise ServiceStopping after `close`; the queue is unbounded."""
        if self._closed:
            raise ServiceStopping

    async def submit(self, rows: Sequence[EncodedInput], deadline: float | None = None) -> list[RowOutputs]:
        """Run rows in batches with those of other callers and return their outputs in order; `deadline` is ignored."""
        self.check_capacity(len(rows))
        results = await asyncio.gather(*(self._dispatch(row) for row in rows))
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    @property
    def waiting(self) -> int:
        """Count the rows that wait to be dispatched."""
        return len(self._dispatcher._queue)

    def close(self) -> None:
        """Refuse the rows that wait, let the running batch end and stop the thread."""
        self._closed = True
        self._dispatcher.shutdown()
        self._engine_thread.shutdown()

    async def _run_rows(self, rows: Sequence[EncodedInput]) -> list[RowOutputs | Exception]:
        """Run what was gathered in one batch, or in one for each group of rows that may share a batch."""
        results: list[RowOutputs | Exception] = [{}] * len(rows)
        groups: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(row.group, []).append(index)
        loop = asyncio.get_running_loop()
        for indices in groups.values():
            batch, began = [rows[i] for i in indices], time.monotonic()
            outputs, seconds = await loop.run_in_executor(self._engine_thread, run_isolated, self._run, batch)
            for i, result in zip(indices, outputs, strict=True):
                results[i] = result
            waited_s = time.monotonic() - began - seconds
            self._report(BatchReport.of(batch, self._limits, seconds, [waited_s] * len(batch)))
        return results
