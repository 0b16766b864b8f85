"""A queue before an engine on a simulated clock, which an admission policy guards."""

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tuneport.stages.serve.admission_policy import AdmissionPolicy, Backlog


@dataclass
class Request:
    """One request of one row."""

    at: float
    timeout_s: float | None = None
    client: int | None = None
    """Number of the closed-loop client that sent it."""
    answered_at: float | None = None
    is_refused: bool = False

    @property
    def seconds(self) -> float:
        """Time from its arrival to its answer."""
        assert self.answered_at is not None
        return self.answered_at - self.at


@dataclass
class SimulatedEngine:
    """Runs rows of `tokens` tokens in batches of up to `batch_rows`, on several streams."""

    policy: AdmissionPolicy
    streams: int = 1
    batch_rows: int = 8
    tokens: int = 10
    seconds_of: Callable[[float, int], float] = lambda now, rows: 0.01
    """Time of a batch, by its start and its rows."""
    accepts_all: bool = False
    requests: list[Request] = field(default_factory=list)
    busy_s: float = 0.0

    def run(
        self, arrivals: Iterable[Request], until: float, again: Callable[[Request, float], Request | None] | None = None
    ) -> list[Request]:
        """Simulate until a time. `again` returns what the client of an answered or refused request sends next."""
        number = itertools.count()
        events: list[tuple[float, int, Request | list[Request]]] = []
        waiting: list[Request] = []
        free = self.streams

        def push(request: Request | None) -> None:
            if request is not None:
                heapq.heappush(events, (request.at, next(number), request))

        for request in arrivals:
            push(request)
        while events and events[0][0] <= until:
            now, _, event = heapq.heappop(events)
            if isinstance(event, list):
                free += 1
                for request in event:
                    request.answered_at = now
                    push(again(request, now) if again else None)
            else:
                self.requests.append(event)
                backlog = Backlog(len(waiting), self.tokens * len(waiting))
                refusal = self.policy.check(now, backlog, tokens=self.tokens, time_left_s=event.timeout_s)
                if refusal and not self.accepts_all:
                    event.is_refused = True
                    push(again(event, now) if again else None)
                else:
                    waiting.append(event)
            waiting = self._without_late(waiting, now)
            while free and waiting:
                batch, waiting = waiting[: self.batch_rows], waiting[self.batch_rows :]
                free -= 1
                seconds = self.seconds_of(now, len(batch))
                self.busy_s += seconds
                self.policy.batch_started(now, self.tokens * len(batch), rows_left=bool(waiting))
                self.policy.batch_ended(seconds)
                heapq.heappush(events, (now + seconds, next(number), batch))
        return self.requests

    def _without_late(self, waiting: list[Request], now: float) -> list[Request]:
        def is_too_late(request: Request) -> bool:
            limit_s = request.timeout_s
            return limit_s is not None and self.policy.is_too_late(now, request.at, request.at + limit_s)

        return list(itertools.dropwhile(is_too_late, waiting))

    def answered(self) -> Iterator[Request]:
        """Iterate over the requests that have an answer."""
        return (request for request in self.requests if request.answered_at is not None)

    def refused(self) -> list[Request]:
        """List the requests that were refused."""
        return [request for request in self.requests if request.is_refused]


def at_rate(per_s: float, seconds: float, timeout_s: float | None = None) -> list[Request]:
    """Return requests at even intervals."""
    return [Request(i / per_s, timeout_s) for i in range(round(per_s * seconds))]
