"""Decide from measured waits whether a request would be answered in time; no thread and no clock is in here.

Work is counted in tokens and the time `now` is in seconds, on any one clock. `RowQueue` reports what happens and asks.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

WINDOW_S = 2.0
"""The drain rate is that of about the last two seconds."""
MIN_KEPT = 0.5
"""Weight that earlier batches keep when a batch alone takes longer than the window."""
RESUME_AT = 0.9
"""Share of its limit below which an estimate must fall before requests are accepted again: the estimate's precision."""
LATE_SHARE = 0.1
"""In this last share of its time a row is dropped if a batch takes longer than the time that is left."""
EMA_DECAY = 0.9
"""Weight of the old estimate when a batch updates the mean time of a batch (exponential moving average)."""
REFUSALS_PER_S = 100.0
"""Rate from which refusals are held back."""
REFUSAL_BURST = 50
"""Refusals that are sent at once before that rate counts."""
MAX_HOLD_S = 2.0
"""The longest time that a refusal is held back."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits before a new request."""

    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not accepted."""

    limit_s: float
    """The limit that it would exceed."""
    retry_after_s: float
    """Time until so much work is done that it would be accepted."""
    is_deadline: bool
    """Whether the limit is the request's own time rather than the queue's."""


class Measured(NamedTuple):
    """What a policy has measured, as numbers that another process can take over."""

    rate_tokens: float = 0.0
    rate_seconds: float = 0.0
    last_tokens: float = 0.0
    last_at: float = 0.0
    is_backlogged: float = 0.0
    batch_s: float = 0.0


class DrainRate:
    """Tokens that the engine takes from the queue in a second, measured while rows wait.

    Time in which no row waits does not count, so that an idle engine does not look slow.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._tokens = self._seconds = 0.0
        self._last_tokens = 0.0
        self.last_at = 0.0
        """When the last batch started."""
        self._is_backlogged = False

    def batch_started(self, now: float, tokens: int, *, rows_left: bool) -> None:
        """Count a batch that was taken from the queue, in which `rows_left` tells whether rows still wait."""
        if self._is_backlogged:
            seconds = max(now - self.last_at, 1e-9)
            kept = max(MIN_KEPT, math.exp(-seconds / WINDOW_S))
            self._tokens = kept * self._tokens + self._last_tokens
            self._seconds = kept * self._seconds + seconds
        self._last_tokens, self.last_at, self._is_backlogged = tokens, now, rows_left

    def measured(self) -> tuple[float, float, float, float, float]:
        """Return the first fields of `Measured`."""
        return self._tokens, self._seconds, self._last_tokens, self.last_at, float(self._is_backlogged)

    def restore(self, measured: Measured) -> None:
        """Take over what was measured in another process."""
        self._tokens, self._seconds, self._last_tokens, self.last_at = measured[:4]
        self._is_backlogged = bool(measured.is_backlogged)

    def tokens_per_s(self, now: float) -> float | None:
        """Return the rate, None if it was never measured. A batch that takes longer than usual lowers it at once."""
        rates = [self._tokens / self._seconds] if self._seconds else []
        open_s = now - self.last_at
        if self._is_backlogged and self._seconds and open_s > 0:
            rates.append((self._tokens + self._last_tokens) / (self._seconds + open_s))
        return min(rates, default=None)


class AdmissionPolicy:
    """Accepts a request unless its estimated wait exceeds the queue's limit, or its answer would come too late.

    After a refusal the estimate must fall to `RESUME_AT` of the limit before requests are accepted again, so that
    decisions do not alternate. Without a backlog nothing is refused, whatever was measured before.
    """

    def __init__(self, *, streams: int = 1, batch_tokens: int = 1, max_wait_s: float | None = None) -> None:
        """One batch for each of the engine's `streams` may always wait, since a smaller queue would leave them idle."""
        self._streams = streams
        self._batch_tokens = batch_tokens
        self._max_wait_s = max_wait_s
        self._rate = DrainRate()
        self._batch_s = 0.0
        self._is_shedding = False

    def batch_started(self, now: float, tokens: int, *, rows_left: bool) -> None:
        """Take note of a batch that was taken from the queue; see `DrainRate`."""
        self._rate.batch_started(now, tokens, rows_left=rows_left)

    def batch_ended(self, seconds: float) -> None:
        """Take note of the time that a batch took."""
        self._batch_s = EMA_DECAY * self._batch_s + (1 - EMA_DECAY) * seconds if self._batch_s else seconds

    def measured(self) -> Measured:
        """Return what was measured, for the policy of another process."""
        return Measured(*self._rate.measured(), self._batch_s)

    def restore(self, measured: Measured) -> None:
        """Take over what was measured in another process."""
        self._rate.restore(measured)
        self._batch_s = measured.batch_s

    def wait_s(self, now: float, backlog: Backlog) -> float:
        """Estimate how long a new row would wait; 0 as long as nothing was measured."""
        rate = self._rate.tokens_per_s(now)
        return backlog.tokens / rate if rate else 0.0

    def is_too_late(self, now: float, enqueued_at: float, deadline: float) -> bool:
        """Tell whether a row that waits would be answered after its deadline.

        An engine that becomes slower would otherwise run only rows that are about to expire, each for nothing.
        """
        left_s = deadline - now
        return left_s <= 0 or (left_s < self._batch_s and left_s < LATE_SHARE * (deadline - enqueued_at))

    def check(
        self, now: float, backlog: Backlog, *, tokens: int = 0, time_left_s: float | None = None
    ) -> Refusal | None:
        """Decide about a request of `tokens`, 0 if that is not known yet; returns None if it is accepted.

        `time_left_s` is the time until its deadline.
        """
        if not backlog.rows:
            self._is_shedding = False
            return None
        rate = self._rate.tokens_per_s(now)
        if not rate:
            return None
        wait_s = backlog.tokens / rate
        answered_s = wait_s + self._next_batch_s(now) + max(self._batch_s, tokens / rate)
        share = RESUME_AT if self._is_shedding else 1.0
        if time_left_s is not None and answered_s > share * time_left_s:
            return self._refuse(answered_s, time_left_s, is_deadline=True)
        if self._max_wait_s is None or wait_s <= share * self._max_wait_s:
            self._is_shedding = False
            return None
        return None if self._is_needed(backlog) else self._refuse(wait_s, self._max_wait_s, is_deadline=False)

    def _next_batch_s(self, now: float) -> float:
        """Estimate the time until the next batch, at most: several streams may take theirs at about the same time."""
        return max(0.0, self._batch_s - (now - self._rate.last_at))

    def _is_needed(self, backlog: Backlog) -> bool:
        """Tell whether the streams could run out of rows if no more were accepted."""
        return backlog.rows < self._streams or backlog.tokens < self._streams * self._batch_tokens

    def _refuse(self, needed_s: float, limit_s: float, *, is_deadline: bool) -> Refusal:
        self._is_shedding = True
        return Refusal(limit_s, max(0.0, needed_s - RESUME_AT * limit_s), is_deadline)


class RefusalPacer:
    """Spaces the answers to refused requests, so that clients that retry at once cannot take the engine's processor.

    A refusal that is held back costs nothing meanwhile but its connection.
    """

    def __init__(self, *, per_s: float = REFUSALS_PER_S, burst: int = REFUSAL_BURST) -> None:
        """Start with a full burst."""
        self._interval_s = 1 / per_s
        self._burst_s = burst / per_s
        self._next_at = -math.inf

    def send_now(self, now: float) -> bool:
        """Tell whether a refusal need not be held back, and count it if so."""
        if self._next_at > now:
            return False
        self.hold_s(now)
        return True

    def hold_s(self, now: float) -> float:
        """Return how long to hold back a refusal: 0 up to a burst, then as the rate demands."""
        self._next_at = max(self._next_at, now - self._burst_s)
        held_s = max(0.0, self._next_at - now)
        if held_s > MAX_HOLD_S:
            return MAX_HOLD_S
        self._next_at += self._interval_s
        return held_s
