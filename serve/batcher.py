"""Which rows run together, and running them off the event loop.

A batch is bounded by padded tokens, not by rows: the cost of a batch is rows x longest row, so rows of like
length belong together. `plan` is that policy, pure; `Batcher` applies it to what is waiting each time a
stream of the engine falls free. Nothing waits for a batch to fill.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from export.files import TuneportError
from serve.engines import Output
from serve.tokenizer import Row

Result = dict[str, Output]
"""The outputs of one row by name, without the row axis."""
RunBatch = Callable[[Sequence[Row]], list[Result]]

WINDOW = 64
"""Rows, in order of arrival, among which like lengths are sought: longer pads less, shorter is fairer."""


class Overloaded(TuneportError):
    """The queue is full, or closed."""


def plan(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Split rows into batches of like length with rows x longest ≤ `max_batch_tokens`.

    Returns indices into `lengths`, shortest rows first. A row that is longer than the budget gets a batch of
    its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@dataclass(slots=True, eq=False)
class _Job:
    row: Row
    done: asyncio.Future[Result]


class Batcher:
    """Feeds an engine from concurrent requests. Lives in one event loop."""

    def __init__(self, run: RunBatch, *, streams: int, max_batch_tokens: int, max_waiting: int) -> None:
        """`run` is called in a thread of the batcher's own, at most `streams` calls at a time."""
        self._run = run
        self._max_batch_tokens = max_batch_tokens
        self._max_waiting = max_waiting
        self._free_streams = streams
        self._waiting: list[_Job] = []
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="engine")
        self._closed = False

    async def submit(self, rows: Sequence[Row]) -> list[Result]:
        """Run rows among everyone else's and return their results in order.

        When the caller is cancelled, rows that have not started are dropped. Raises Overloaded at once if
        they don't fit into the queue, and whatever the engine raised for one of them.
        """
        if self._closed:
            raise _stopping()
        if len(self._waiting) + len(rows) > self._max_waiting:
            raise Overloaded(
                f"{len(self._waiting)} inputs are waiting and at most {self._max_waiting} may",
                "try again after a second, or add replicas",
            )
        loop = asyncio.get_running_loop()
        jobs = [_Job(row, loop.create_future()) for row in rows]
        self._waiting += jobs
        self._pump(loop)
        try:
            return await asyncio.gather(*(job.done for job in jobs))
        finally:
            for job in jobs:  # a no-op for those that are done
                job.done.cancel()
            if any(job.done.cancelled() for job in jobs):  # they must not keep others out of the queue
                self._waiting = [job for job in self._waiting if not job.done.done()]

    def close(self) -> None:
        """Refuse what waits, let running batches end and stop the threads. Call it in the event loop."""
        self._closed = True
        for job in self._waiting:
            if not job.done.done():
                job.done.set_exception(_stopping())
        self._waiting = []
        self._pool.shutdown()

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._free_streams and (jobs := self._take()):
            self._free_streams -= 1
            started = self._pool.submit(_run_or_raise, self._run, [job.row for job in jobs])
            started.add_done_callback(
                lambda ended, jobs=jobs: loop.call_soon_threadsafe(self._finish, loop, jobs, ended)  # type: ignore[misc]
            )

    def _take(self) -> list[_Job]:
        """Take the oldest waiting row and those of the window that share its batch."""
        self._waiting = [job for job in self._waiting if not job.done.done()]
        if not self._waiting:
            return []
        window = self._waiting[:WINDOW]
        batches = plan([len(job.row) for job in window], self._max_batch_tokens)
        chosen = next(batch for batch in batches if 0 in batch)
        taken = set(chosen)
        self._waiting = [job for i, job in enumerate(self._waiting) if i not in taken]
        return [window[i] for i in chosen]

    def _finish(
        self, loop: asyncio.AbstractEventLoop, jobs: list[_Job], ended: "ThreadFuture[list[Result | Exception]]"
    ) -> None:
        self._free_streams += 1
        for job, result in zip(jobs, ended.result(), strict=True):
            if job.done.done():
                continue
            if isinstance(result, Exception):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)
        self._pump(loop)


def _stopping() -> Overloaded:
    return Overloaded("the service is stopping", "send the request again, to another replica if there is one")


def _run_or_raise(run: RunBatch, rows: list[Row]) -> list[Result | Exception]:
    """Run a batch; if it fails run its rows alone, so that only the culprit's request fails."""
    try:
        results = run(rows)
        if len(results) != len(rows):
            raise ValueError(f"{len(results)} results for {len(rows)} row(s)")
        return list(results)
    except Exception as error:
        if len(rows) == 1:
            return [error]
        return [result for row in rows for result in _run_or_raise(run, [row])]
