"""From concurrent requests to batches, off the event loop.

Each time a stream of the engine falls free, `serve.plan` chooses from what waits. Nothing waits for a batch to
fill, and nothing runs for a caller who left.
"""

import asyncio
import contextlib
import threading
import time
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from export.files import TuneportError
from serve.engines import Output
from serve.plan import Budget, choose
from serve.tokenizer import Row

Result = dict[str, Output]
"""The outputs of one row by name, without the row axis."""
RunBatch = Callable[[Sequence[Row]], list[Result]]

WINDOW = 64
"""Rows, in order of their turn, among which like lengths are sought at least: more pad less, fewer are fairer."""
OVERTAKING = 4.0
"""A row waits for at most so many times the work of its own request before it, however many others come."""
MEMORY = 0.9
"""Share of the old estimate that a batch's measured speed leaves standing."""
TELLING_ROWS = WINDOW // 2
"""A batch of so many rows, or of half the token budget, tells the engine's speed; one short row does not."""


class Overloaded(TuneportError):
    """The queue is full, or closed."""

    def __init__(self, problem: str, remedy: str, retry_after_s: float = 1.0) -> None:
        """`retry_after_s` is how long what waits now will take."""
        super().__init__(problem, remedy)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a batch was."""

    rows: int
    tokens: int
    """Without padding."""
    padded_tokens: int
    seconds: float
    waited_s: list[float]
    """How long each row waited for the engine."""

    @classmethod
    def of(cls, rows: Sequence[Row], budget: Budget, seconds: float, waited_s: list[float]) -> "BatchReport":
        """Count what was run."""
        padded = len(rows) * budget.padded(max(map(len, rows)))
        return cls(len(rows), sum(map(len, rows)), padded, seconds, waited_s)


@dataclass(slots=True, order=True)
class _Job:
    turn: float
    """Rows go in this order; in tokens, on the batcher's own clock."""
    number: int
    row: Row = field(compare=False)
    done: asyncio.Future[Result] = field(compare=False)
    since: float = field(compare=False)
    """Of `time.monotonic`: the clock of uvloop ticks in milliseconds."""
    deadline: float | None = field(compare=False)


class Batcher:
    """Feeds an engine from concurrent requests. Lives in one event loop, its streams in threads of their own.

    A stream that falls free takes its next batch itself: on a busy machine the event loop would let it wait.
    """

    def __init__(
        self,
        run: RunBatch,
        *,
        streams: int,
        budget: Budget,
        max_waiting: int,
        max_queue_s: float | None = None,
        report: Callable[[BatchReport], object] = lambda _: None,
    ) -> None:
        """`run` is called in a thread of the batcher's own, at most `streams` calls at a time."""
        self._run = run
        self._streams = streams
        self._budget = budget
        self._window = max(WINDOW, budget.tokens // WINDOW)
        self._max_waiting = max_waiting
        self._max_queue_s = max_queue_s
        self._report = report
        self._tokens_per_s: float | None = None
        # Guards what follows, and wakes streams.
        self._work = threading.Condition()
        self._waiting: list[_Job] = []
        self._tokens_begun = 0.0
        self._numbers = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, name=f"engine_{i}", daemon=True) for i in range(streams)]
        for thread in self._threads:
            thread.start()

    async def submit(self, rows: Sequence[Row], deadline: float | None = None) -> list[Result]:
        """Run rows among everyone else's and return their results in order.

        `deadline` is a time of the event loop's clock. When it passes, or the caller is cancelled, rows that have
        not started are dropped. Raises Overloaded at once if they would wait too long, TimeoutError at the
        deadline, and whatever the engine raised for one of the rows.
        """
        loop = asyncio.get_running_loop()
        with self._work:
            self.check_room(len(rows))
            jobs = self._enqueue(rows, loop, deadline)
            self._work.notify(len(jobs))
        try:
            if len(jobs) == 1:
                return [await jobs[0].done]
            return await asyncio.gather(*(job.done for job in jobs))
        finally:
            for job in jobs:  # a no-op for those that are done
                job.done.cancel()
            if any(job.done.cancelled() for job in jobs):  # they must not keep others out of the queue
                with self._work:
                    self._waiting = [job for job in self._waiting if not job.done.done()]

    def check_room(self, rows: int = 1) -> None:
        """Raise Overloaded if so many rows more would be too many, or would wait too long."""
        if self._closed:
            raise stopping()
        with self._work:
            waiting, queue_s = len(self._waiting), self._queue_s()
        if waiting + rows > self._max_waiting:
            raise Overloaded(
                f"{waiting} inputs are waiting and at most {self._max_waiting} may",
                "try again after the time in Retry-After, or add replicas",
                queue_s,
            )
        if self._max_queue_s is not None and queue_s > self._max_queue_s:
            raise Overloaded(
                f"the queue takes {queue_s * 1000:.0f} ms and {self._max_queue_s * 1000:.0f} ms is the limit",
                "try again after the time in Retry-After, add replicas, or raise TUNEPORT_MAX_QUEUE_MS",
                queue_s,
            )

    @property
    def waiting(self) -> int:
        """Rows that wait for a stream."""
        return len(self._waiting)

    def close(self) -> None:
        """Refuse what waits, let running batches end and stop the threads. Call it in the event loop."""
        with self._work:
            self._closed = True
            for job in self._waiting:
                if not job.done.done():
                    job.done.set_exception(stopping())
            self._waiting = []
            self._work.notify_all()
        for thread in self._threads:
            thread.join()

    def _queue_s(self) -> float:
        """Estimate how long a new request would wait: what goes before it, at the speed measured so far.

        A batch for each stream may always wait, however slow the engine.
        """
        if not self._tokens_per_s:
            return 0.0
        ahead = sum(len(job.row) for job in self._waiting if job.turn <= self._tokens_begun)
        return ahead / self._tokens_per_s if ahead > self._streams * self._budget.tokens else 0.0

    def _enqueue(self, rows: Sequence[Row], loop: asyncio.AbstractEventLoop, deadline: float | None) -> list[_Job]:
        """Give the rows their turns: a request's first row now, the others after a multiple of its own work.

        So requests of many rows leave room for those of few, and still get their share of a busy engine.
        """
        now, turn = time.monotonic(), self._tokens_begun
        jobs = []
        for row in rows:
            self._numbers += 1
            jobs.append(_Job(turn, self._numbers, row, loop.create_future(), now, deadline))
            turn += OVERTAKING * len(row)
        for job in jobs:
            insort(self._waiting, job)
        return jobs

    def _serve(self) -> None:
        """Be one of the streams."""
        while jobs := self._next():
            began = time.monotonic()
            results, seconds = run_or_raise(self._run, [job.row for job in jobs])
            _in_loop(jobs[0], self._finish, jobs, results, seconds, began)

    def _next(self) -> list[_Job]:
        """Wait for a batch; nothing when the batcher is closed."""
        with self._work:
            while not self._closed:
                if jobs := self._take(time.monotonic()):
                    return jobs
                self._work.wait()
        return []

    def _take(self, now: float) -> list[_Job]:
        """Take the waiting row whose turn it is, and those of its group and window that share its batch."""
        waiting = []
        for job in self._waiting:
            if job.deadline is not None and job.deadline <= now:
                _in_loop(job, _expire, job)
            elif not job.done.done():
                waiting.append(job)
        self._waiting = waiting
        if not waiting:
            return []
        window = [job for job in waiting if job.row.group == waiting[0].row.group][: self._window]
        chosen = choose([len(job.row) for job in window], self._budget)
        taken = {window[i].number for i in chosen}
        self._waiting = [job for job in waiting if job.number not in taken]
        self._tokens_begun += sum(len(window[i].row) for i in chosen)
        return [window[i] for i in chosen]

    def _finish(self, jobs: list[_Job], results: list[Result | Exception], seconds: float, began: float) -> None:
        for job, result in zip(jobs, results, strict=True):
            if job.done.done():
                continue
            if isinstance(result, Exception):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)
        self._measure(jobs, seconds, began)

    def _measure(self, jobs: list[_Job], seconds: float, began: float) -> None:
        report = BatchReport.of([job.row for job in jobs], self._budget, seconds, [began - job.since for job in jobs])
        if 2 * report.padded_tokens >= self._budget.tokens or report.rows >= TELLING_ROWS:
            speed, old = self._streams * report.tokens / max(seconds, 1e-6), self._tokens_per_s
            self._tokens_per_s = speed if old is None else MEMORY * old + (1 - MEMORY) * speed
        self._report(report)


def _in_loop(job: _Job, call: Callable[..., object], *arguments: Any) -> None:
    """Call in the event loop that waits for a job, from a stream's thread."""
    with contextlib.suppress(RuntimeError):  # the loop was closed; nobody waits any more
        job.done.get_loop().call_soon_threadsafe(call, *arguments)


def _expire(job: _Job) -> None:
    if not job.done.done():
        job.done.set_exception(TimeoutError())


def stopping() -> Overloaded:
    """Return the refusal of a batcher that was closed."""
    return Overloaded("the service is stopping", "send the request again, to another replica if there is one")


def run_or_raise(run: RunBatch, rows: list[Row]) -> tuple[list[Result | Exception], float]:
    """Run a batch; if it fails run its rows alone, so that only the culprit's request fails.

    Returns the seconds, too.
    """
    began = time.perf_counter()
    try:
        results = run(rows)
        if len(results) != len(rows):
            raise ValueError(f"{len(results)} results for {len(rows)} row(s)")
        return list(results), time.perf_counter() - began
    except Exception as error:
        if len(rows) == 1:
            return [error], time.perf_counter() - began
        alone = [run_or_raise(run, [row])[0][0] for row in rows]
        return alone, time.perf_counter() - began
