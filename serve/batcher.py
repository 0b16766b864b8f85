"""Batch the rows of concurrent requests, off the event loop.

Whenever a stream of the engine is free, `tuneport.runtime.scheduler` selects its next batch from the rows that wait. No
row waits for a batch to fill, and nothing runs for a caller who left.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuneport.errors import ServiceStopping
from tuneport.runtime.batch import EncodedInput, RowOutputs, RunBatch
from tuneport.runtime.runner import run_isolated
from tuneport.runtime.scheduler import BatchLimits

from . import logs
from .row_queue import Job, RowQueue, Submission

CLOSE_TIMEOUT_S = 3.0
"""How long `close` waits for the batches that run: one that hangs in a driver never ends."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """The size and the times of a batch that ran."""

    rows: int
    tokens: int
    """Without padding."""
    padded_tokens: int
    """What the batch cost, which is `tokens` where nothing is padded."""
    seconds: float
    waited_s: list[float]
    """How long each row waited in the queue."""

    @classmethod
    def of(
        cls, rows: Sequence[EncodedInput], limits: BatchLimits, seconds: float, waited_s: list[float]
    ) -> "BatchReport":
        """Count the tokens of `rows`, with and without the padding of one batch."""
        lengths = [len(row) for row in rows]
        return cls(len(rows), sum(lengths), limits.cost(lengths), seconds, waited_s)


Report = Callable[[BatchReport], object]


class RowBatcher(Protocol):
    """Runs the rows of concurrent requests in batches."""

    @property
    def waiting(self) -> int:
        """Count the rows in the queue."""

    def check_capacity(self, rows: int = 1, *, tokens: int = 0, deadline: float | None = None) -> None:
        """Raise Overloaded if so many more rows are not accepted now, ServiceStopping after `close`."""

    async def submit(self, rows: Sequence[EncodedInput], deadline: float | None = None) -> list[RowOutputs]:
        """Return the outputs of the rows, in order."""

    def close(self) -> None:
        """Refuse the rows that wait and stop the threads."""


class MakeBatcher(Protocol):
    """Make a batcher for an engine; the class `Batcher` is one."""

    def __call__(
        self,
        run: RunBatch,
        *,
        streams: int,
        limits: BatchLimits,
        max_queue_inputs: int,
        max_queue_s: float | None,
        report: Report,
    ) -> RowBatcher:
        """Return a batcher whose threads call `run` and then `report`."""


class Batcher:
    """Feeds an engine from concurrent requests of one event loop, with a thread for each of its streams.

    A stream that becomes free takes its next batch itself, because a busy event loop would keep it waiting.
    """

    def __init__(
        self,
        run: RunBatch,
        *,
        streams: int,
        limits: BatchLimits,
        max_queue_inputs: int,
        max_queue_s: float | None = None,
        report: Report = lambda _: None,
    ) -> None:
        """Start the threads; at most `streams` of them call `run` at a time. `report` is called in the event loop."""
        self._run = run
        self._limits = limits
        self._report = report
        self._queue = RowQueue(limits, streams=streams, max_rows=max_queue_inputs, max_wait_s=max_queue_s)
        self._closed = False
        self._is_waking = False
        # Guards the queue and `_closed`, and wakes streams.
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run_stream, name=f"engine_{i}", daemon=True) for i in range(streams)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(self, rows: Sequence[EncodedInput], deadline: float | None = None) -> list[RowOutputs]:
        """Run rows in batches with those of other callers and return their outputs in order.

        `deadline` is a time of the event loop's clock. When it passes, or the caller is cancelled, rows that have
        not started are dropped. Raises Overloaded at once if they would wait too long or be answered too late,
        TimeoutError at the deadline, and whatever the engine raised for one of the rows.
        """
        with self._changed:
            self.check_capacity(len(rows), tokens=sum(map(len, rows)), deadline=deadline)
            submission = self._queue.put(rows, deadline)
        if not self._is_waking:
            self._is_waking = True
            asyncio.get_running_loop().call_soon(self._wake_stream)
        try:
            return await submission.answered
        finally:
            if submission.waiting:  # the caller left, or another row failed
                with self._changed:
                    self._queue.drop(submission)

    def check_capacity(self, rows: int = 1, *, tokens: int = 0, deadline: float | None = None) -> None:
        """Raise Overloaded if so many more rows would be too many, wait too long, or be answered after `deadline`.

        `tokens` is the length of all rows together; before they are tokenized, 0.
        """
        with self._changed:
            if self._closed:
                raise ServiceStopping
            self._queue.check_capacity(rows, tokens=tokens, deadline=deadline)

    @property
    def waiting(self) -> int:
        """Count the rows that wait for a stream."""
        return len(self._queue)

    def close(self) -> None:
        """Refuse the rows that wait, let running batches end and stop the threads. Call it in the event loop.

        A batch that takes longer than `CLOSE_TIMEOUT_S` is left to its thread, which does not keep the process alive.
        """
        with self._changed:
            self._closed = True
            for submission in self._queue.clear():
                submission.fail(ServiceStopping())
            self._changed.notify_all()
        ends_at = time.monotonic() + CLOSE_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, ends_at - time.monotonic()))
        if hanging := sum(thread.is_alive() for thread in self._threads):
            logs.log("batches do not end", logging.ERROR, batches=hanging, after_s=CLOSE_TIMEOUT_S)

    def _wake_stream(self) -> None:
        """Wake a stream, after all that the event loop had to do: requests that came together run together."""
        self._is_waking = False
        with self._changed:
            self._changed.notify()

    def _run_stream(self) -> None:
        """Run batches until the batcher is closed; the body of each thread."""
        while jobs := self._next_batch():
            began = time.monotonic()
            results, seconds = run_isolated(self._run, [job.row for job in jobs])
            _call_in_loop(jobs[0].submission, self._finish, jobs, results, seconds, began)

    def _next_batch(self) -> list[Job]:
        """Wait for a batch; return nothing when the batcher is closed."""
        with self._changed:
            while not self._closed:
                for submission in self._queue.take_expired():
                    _call_in_loop(submission, submission.fail, TimeoutError())
                if jobs := self._queue.take_batch():
                    if len(self._queue):
                        self._changed.notify()  # another stream, if one is idle
                    return jobs
                self._changed.wait()
        return []

    def _finish(self, jobs: list[Job], results: list[RowOutputs | Exception], seconds: float, began: float) -> None:
        """Hand the results to the callers and report the batch."""
        for job, result in zip(jobs, results, strict=True):
            job.finish(result)
        waited_s = [began - job.submission.enqueued_at for job in jobs]
        report = BatchReport.of([job.row for job in jobs], self._limits, seconds, waited_s)
        with self._changed:
            self._queue.batch_ended(seconds)
        self._report(report)


def _call_in_loop(submission: Submission, function: Callable[..., object], *arguments: Any) -> None:
    """Call a function in the event loop that waits for a request's outputs, from a stream's thread."""
    with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits any more
        submission.answered.get_loop().call_soon_threadsafe(function, *arguments)
