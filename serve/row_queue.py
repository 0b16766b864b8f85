"""The queue of rows that wait for the engine: fair order between requests, and refusal of what would wait too long."""

import asyncio
import heapq
import time
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from tuneport.errors import Overloaded, PayloadTooLarge
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.scheduler import BatchLimits, select_batch

from .admission_policy import AdmissionPolicy, Backlog, Refusal

MIN_WINDOW_ROWS = 64
"""The scheduler looks for rows of similar length among at least this many: more rows pad less, fewer are fairer."""
FAIRNESS_FACTOR = 4.0
"""A row waits for at most this many times the work of its own request before it, however many other requests come."""
MAX_STALE_ENTRIES = 1024
"""Entries of rows that left which may stay, besides a multiple of those that wait; then all of them are removed."""


@dataclass(slots=True, eq=False)
class Submission:
    """The rows of one request, and the future of their outputs."""

    answered: asyncio.Future[list[RowOutputs]]
    """Resolved in the event loop when all rows have their outputs, or with the first error."""
    enqueued_at: float
    """On the clock of `time.monotonic`, which is the event loop's and that of deadlines."""
    jobs: list["Job"] = field(default_factory=list)
    outputs: list[RowOutputs] = field(default_factory=list)
    waiting: int = 0
    """Rows that have not started."""
    unanswered: int = 0
    """Rows without outputs."""

    def fail(self, error: Exception) -> None:
        """Raise an error in the caller, unless it has left or had another error."""
        if not self.answered.done():
            self.answered.set_exception(error)


@dataclass(slots=True, eq=False)
class Job:
    """A row that waits or runs."""

    row: EncodedInput
    submission: Submission
    index: int
    """Among the rows of its request."""
    is_waiting: bool = True
    """False as soon as the row runs, or its caller left."""
    is_ahead: bool = False
    """Whether its turn has come, so that it is before every new row."""

    def finish(self, result: RowOutputs | Exception) -> None:
        """Hand the row's outputs, or its error, to its request. Call it in the event loop."""
        submission = self.submission
        if isinstance(result, Exception):
            submission.fail(result)
            return
        submission.outputs[self.index] = result
        submission.unanswered -= 1
        if not submission.unanswered and not submission.answered.done():
            submission.answered.set_result(submission.outputs)


Turn = tuple[float, int, Job]
"""When a row may start, on the queue's own clock, which counts the tokens that have started; the row's number by
arrival, which decides between equal times; and the row."""


class RowQueue:
    """Rows in the order of their turns. Not thread-safe: the batcher changes it under its lock alone.

    What leaves is only marked, and removed when the queue comes across it: an operation's time does not grow with the
    number of rows that wait.
    """

    def __init__(self, limits: BatchLimits, *, streams: int, max_rows: int, max_wait_s: float | None) -> None:
        """Hold up to `max_rows`; with `max_wait_s`, refuse rows whose estimated wait is longer."""
        self.policy = AdmissionPolicy(streams=streams, batch_tokens=limits.tokens, max_wait_s=max_wait_s)
        self._limits = limits
        self._max_rows = max_rows
        self._window_rows = max(MIN_WINDOW_ROWS, limits.tokens // MIN_WINDOW_ROWS)
        self._jobs: list[Turn] = []
        """Sorted."""
        self._later: list[Turn] = []
        """A heap of the rows whose turn has not come."""
        self._deadlines: list[tuple[float, int, Submission]] = []
        """A heap."""
        self._waiting_rows = self._ahead_rows = self._ahead_tokens = 0
        self._started_tokens = 0.0
        self._count = 0

    def __len__(self) -> int:
        """Count the rows that wait."""
        return self._waiting_rows

    @property
    def backlog(self) -> Backlog:
        """What waits before a new request."""
        return Backlog(self._ahead_rows, self._ahead_tokens)

    def check_capacity(self, rows: int, *, tokens: int = 0, deadline: float | None = None) -> None:
        """Raise what `check_queue` raises for `rows` more, of `tokens` together."""
        check_queue(self.policy, self.backlog, self._waiting_rows, self._max_rows, rows, tokens, deadline)

    def put(self, rows: Sequence[EncodedInput], deadline: float | None) -> Submission:
        """Enqueue a request's rows: its first row at the end, each other one after a multiple of the work before it.

        Requests of many rows thus leave gaps for requests of few, and still get their share of a busy engine.
        """
        submission = Submission(asyncio.get_running_loop().create_future(), time.monotonic())
        turn = self._started_tokens
        for index, row in enumerate(rows):
            self._count += 1
            entry = (turn, self._count, Job(row, submission, index))
            submission.jobs.append(entry[2])
            insort(self._jobs, entry)
            heapq.heappush(self._later, entry)
            turn += FAIRNESS_FACTOR * len(row)
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline, self._count, submission))
        submission.outputs = [{}] * len(rows)
        submission.waiting = submission.unanswered = len(rows)
        self._waiting_rows += len(rows)
        self._advance(0)
        return submission

    def take_expired(self) -> list[Submission]:
        """Remove the rows whose deadline has passed, or that would be answered after it; returns their requests."""
        now = time.monotonic()
        expired = []
        while self._deadlines:
            deadline, _, submission = self._deadlines[0]
            if submission.waiting and not self.policy.is_too_late(now, submission.enqueued_at, deadline):
                break
            heapq.heappop(self._deadlines)
            if submission.waiting:
                self._leave_all(submission)
                expired.append(submission)
        return expired

    def take_batch(self) -> list[Job]:
        """Remove and return the next batch: the row whose turn it is, with those of its group that fit it best."""
        window: list[Job] = []
        looked_at = 0
        for _, _, job in self._jobs:
            looked_at += 1
            if job.is_waiting and job.submission.answered.done():  # its caller left a moment ago, or another row failed
                self._leave(job)
            if job.is_waiting and (not window or job.row.group == window[0].row.group):
                window.append(job)
                if len(window) == self._window_rows:
                    break
        batch = [window[i] for i in select_batch([len(job.row) for job in window], self._limits)] if window else []
        for job in batch:
            self._leave(job)
        self._jobs[:looked_at] = [entry for entry in self._jobs[:looked_at] if entry[2].is_waiting]
        tokens = sum(len(job.row) for job in batch)
        self._advance(tokens)
        if batch:
            self.policy.batch_started(time.monotonic(), tokens, rows_left=self._waiting_rows > 0)
        return batch

    def batch_ended(self, seconds: float) -> None:
        """Learn how long a batch took."""
        self.policy.batch_ended(seconds)

    def drop(self, submission: Submission) -> None:
        """Remove the rows of a request whose caller left, so that they take no place in the queue."""
        self._leave_all(submission)
        if len(self._jobs) + len(self._later) + len(self._deadlines) > 6 * self._waiting_rows + MAX_STALE_ENTRIES:
            self._jobs = [entry for entry in self._jobs if entry[2].is_waiting]
            self._later = [entry for entry in self._later if entry[2].is_waiting]
            self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
            heapq.heapify(self._later)
            heapq.heapify(self._deadlines)

    def clear(self) -> list[Submission]:
        """Remove all rows; returns their requests."""
        submissions = list(dict.fromkeys(job.submission for _, _, job in self._jobs if job.is_waiting))
        for submission in submissions:
            self._leave_all(submission)
        self._jobs, self._later, self._deadlines = [], [], []
        return submissions

    def _leave_all(self, submission: Submission) -> None:
        """Mark all rows of a request that wait."""
        for job in submission.jobs:
            if job.is_waiting:
                self._leave(job)

    def _leave(self, job: Job) -> None:
        """Mark a row as one that waits no more."""
        job.is_waiting = False
        job.submission.waiting -= 1
        self._waiting_rows -= 1
        if job.is_ahead:
            self._ahead_rows -= 1
            self._ahead_tokens -= len(job.row)

    def _advance(self, tokens: int) -> None:
        """Move the queue's clock on by the tokens that start, and count the rows whose turn has come."""
        self._started_tokens += tokens
        while self._later and (self._later[0][0] <= self._started_tokens or not self._later[0][2].is_waiting):
            job = heapq.heappop(self._later)[2]
            if job.is_waiting:
                job.is_ahead = True
                self._ahead_rows += 1
                self._ahead_tokens += len(job.row)


def check_queue(
    policy: AdmissionPolicy,
    backlog: Backlog,
    waiting_rows: int,
    max_rows: int,
    rows: int,
    tokens: int,
    deadline: float | None,
) -> None:
    """Raise Overloaded if `rows` more, of `tokens` together, would be too many, wait too long or be too late.

    Raises PayloadTooLarge for more rows than ever fit, because a retry would not help.
    """
    if rows > max_rows:
        problem = f"{rows} rows in one request, and the limit is {max_rows}"
        raise PayloadTooLarge(problem, "send several requests, or raise TUNEPORT_MAX_QUEUE_INPUTS")
    now = time.monotonic()
    if waiting_rows + rows > max_rows:
        problem = f"{waiting_rows} inputs are waiting and at most {max_rows} may"
        remedy = "try again after the time in Retry-After, or add replicas"
        raise Overloaded(problem, remedy, policy.wait_s(now, backlog) / 2)
    time_left_s = None if deadline is None else deadline - now
    refusal = policy.check(now, backlog, tokens=tokens, time_left_s=time_left_s)
    if refusal:
        raise _overloaded(refusal)


def _overloaded(refusal: Refusal) -> Overloaded:
    """Describe a refusal, in the same words for all requests of a moment: responses are made once."""
    limit = f"{refusal.limit_s * 1000:.0f} ms" if refusal.limit_s < 1 else f"{refusal.limit_s:.3g} s"
    if refusal.is_deadline:
        return Overloaded(
            f"there is so much work before the request that it would not be answered within its {limit}",
            "try again after the time in Retry-After, send fewer inputs, or add replicas",
            refusal.retry_after_s,
        )
    return Overloaded(
        f"the request would wait longer than {limit} in the queue, which is the limit",
        "try again after the time in Retry-After, add replicas, or raise TUNEPORT_MAX_QUEUE_MS",
        refusal.retry_after_s,
    )
