"""When to try again: after errors that may pass, no sooner than the service asks, and before the deadline."""

import math
import random
import time
from dataclasses import dataclass, field

from tuneport.client.errors import RETRIED, out_of_time
from tuneport.errors import RequestError

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0


@dataclass(slots=True)
class Attempts:
    """The attempts of one call, which share a deadline."""

    timeout_s: float
    max_retries: int
    retries: int = 0
    _began: float = field(default_factory=time.monotonic)

    def remaining_s(self) -> float:
        """Return the seconds that are left; raises DeadlineExceeded if there are none."""
        left = self._began + self.timeout_s - time.monotonic()
        if left <= 0:
            raise out_of_time(self.timeout_s)
        return left

    def delay_s(self, error: RequestError) -> float:
        """Return how long to wait before the next attempt; raises `error` if there is to be none.

        The delay doubles with each attempt and is random between half of it and the whole, so that clients that were
        refused together do not come back together. The service's Retry-After is never undercut.
        """
        longest = min(MAX_DELAY_S, FIRST_DELAY_S * 2**self.retries)
        delay = max(random.uniform(longest / 2, longest), error.retry_after_s or 0.0)
        left = self._began + self.timeout_s - time.monotonic()
        if not isinstance(error, RETRIED) or self.retries >= self.max_retries or delay >= left:
            raise error
        self.retries += 1
        return delay

    def ended(self) -> "Attempts":
        """Return the attempts of a call of which a part has arrived, so that it must not be sent again."""
        return Attempts(self.timeout_s, 0)


def check_limits(timeout_s: float, max_retries: int) -> None:
    """Raise ValueError for a time limit or a number of retries that means nothing."""
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise ValueError(f"timeout_s = {timeout_s}: expected a number of seconds above 0")
    if max_retries < 0:
        raise ValueError(f"max_retries = {max_retries}: expected 0 or more")
