"""The queue of rows that wait for the engine: fair order between requests, and refusal of what would wait too long."""

import asyncio
import time
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from tuneport.errors import Overloaded, PayloadTooLarge
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.scheduler import BatchLimits, select_batch

MIN_WINDOW_ROWS = 64
"""The scheduler looks for rows of similar length among at least this many: more rows pad less, fewer are fairer."""
FAIRNESS_FACTOR = 4.0
"""A row waits for at most this many times the work of its own request before it, however many other requests come."""
EMA_DECAY = 0.9
"""Weight of the old estimate when a batch updates the engine's speed (exponential moving average)."""
MIN_ROWS_TO_MEASURE = MIN_WINDOW_ROWS // 2
"""A batch of this many rows, or of half the token limit, shows the engine's speed; one short row does not."""


@dataclass(slots=True, order=True)
class Job:
    """A row that waits or runs, and the future of its outputs. Jobs compare by turn, then by arrival."""

    turn: float
    """Position in the order, in tokens on the queue's own clock: the tokens that had started when it may start."""
    number: int
    row: EncodedInput = field(compare=False)
    outputs: asyncio.Future[RowOutputs] = field(compare=False)
    enqueued_at: float = field(compare=False)
    """On the clock of `time.monotonic`."""
    deadline: float | None = field(compare=False)
    """On the same clock, which is the event loop's."""


class RowQueue:
    """Rows in the order of their turns. Not thread-safe: the batcher calls it under its lock."""

    def __init__(self, limits: BatchLimits, *, streams: int, max_rows: int, max_wait_s: float | None) -> None:
        """Hold up to `max_rows`; with `max_wait_s`, refuse rows whose estimated wait is longer."""
        self._limits = limits
        self._streams = streams
        self._max_rows = max_rows
        self._max_wait_s = max_wait_s
        self._window_rows = max(MIN_WINDOW_ROWS, limits.tokens // MIN_WINDOW_ROWS)
        self._jobs: list[Job] = []
        self._started_tokens = 0.0
        self._count = 0
        self._tokens_per_s: float | None = None

    def __len__(self) -> int:
        """Count the rows that wait."""
        return len(self._jobs)

    def check_capacity(self, rows: int) -> None:
        """Raise Overloaded if `rows` more would be too many or would wait too long.

        Raises PayloadTooLarge for more rows than ever fit, because a retry would not help.
        """
        if rows > self._max_rows:
            problem = f"{rows} rows in one request, and the limit is {self._max_rows}"
            raise PayloadTooLarge(problem, "send several requests, or raise TUNEPORT_MAX_QUEUE_INPUTS")
        waiting, wait_s = len(self._jobs), self.estimated_wait_s()
        if waiting + rows > self._max_rows:
            raise Overloaded(
                f"{waiting} inputs are waiting and at most {self._max_rows} may",
                "try again after the time in Retry-After, or add replicas",
                wait_s,
            )
        if self._max_wait_s is not None and wait_s > self._max_wait_s:
            raise Overloaded(
                f"the queue takes {wait_s * 1000:.0f} ms and {self._max_wait_s * 1000:.0f} ms is the limit",
                "try again after the time in Retry-After, add replicas, or raise TUNEPORT_MAX_QUEUE_MS",
                wait_s,
            )

    def estimated_wait_s(self) -> float:
        """Estimate how long a new row would wait: the tokens before it, at the speed measured so far.

        One batch for each stream may always wait, however slow the engine is.
        """
        if not self._tokens_per_s:
            return 0.0
        tokens = sum(len(job.row) for job in self._jobs if job.turn <= self._started_tokens)
        return tokens / self._tokens_per_s if tokens > self._streams * self._limits.tokens else 0.0

    def put(self, rows: Sequence[EncodedInput], deadline: float | None) -> list[Job]:
        """Enqueue a request's rows: its first row at the end, each other one after a multiple of the work before it.

        Requests of many rows thus leave gaps for requests of few, and still get their share of a busy engine.
        """
        loop, now, turn = asyncio.get_running_loop(), time.monotonic(), self._started_tokens
        jobs = []
        for row in rows:
            self._count += 1
            jobs.append(Job(turn, self._count, row, loop.create_future(), now, deadline))
            turn += FAIRNESS_FACTOR * len(row)
        for job in jobs:
            insort(self._jobs, job)
        return jobs

    def take_expired(self) -> list[Job]:
        """Remove cancelled rows and those whose deadline has passed; return the latter."""
        now = time.monotonic()
        waiting, expired = [], []
        for job in self._jobs:
            if job.deadline is not None and job.deadline <= now:
                expired.append(job)
            elif not job.outputs.done():
                waiting.append(job)
        self._jobs = waiting
        return expired

    def take_batch(self) -> list[Job]:
        """Remove and return the next batch: the row whose turn it is, with those of its group that fit it best."""
        if not self._jobs:
            return []
        group = self._jobs[0].row.group
        window = [job for job in self._jobs if job.row.group == group][: self._window_rows]
        batch = [window[i] for i in select_batch([len(job.row) for job in window], self._limits)]
        taken = {job.number for job in batch}
        self._jobs = [job for job in self._jobs if job.number not in taken]
        self._started_tokens += sum(len(job.row) for job in batch)
        return batch

    def drop_cancelled(self) -> None:
        """Remove rows whose callers left, so that they take no place in the queue."""
        self._jobs = [job for job in self._jobs if not job.outputs.done()]

    def clear(self) -> list[Job]:
        """Remove and return all rows."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def update_speed(self, rows: int, tokens: int, padded_tokens: int, seconds: float) -> None:
        """Include a batch in the estimate of the engine's speed, if it was large enough to show it."""
        if 2 * padded_tokens < self._limits.tokens and rows < MIN_ROWS_TO_MEASURE:
            return
        speed, old = self._streams * tokens / max(seconds, 1e-6), self._tokens_per_s
        self._tokens_per_s = speed if old is None else EMA_DECAY * old + (1 - EMA_DECAY) * speed
