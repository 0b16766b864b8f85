"""One load from several processes, because a single load generator may be slower than the service."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneport.errors import TuneportError

from ..endpoint.processes import plan_load, run_load, start_server
from ..endpoint.targets import EndpointTarget, null_target
from ..load.plan import OK, LoadPlan, LoadResult

WARM_UP_S = 2.0
"""Longer than the starts of the load generators lie apart, so that all of them send while one is timed."""


@dataclass(frozen=True)
class Clients:
    """Load generators that share a number of connections."""

    processes: int
    connections: int
    seconds: float

    def load(self, target: EndpointTarget, port: int, inputs: Sequence[Any]) -> list[LoadResult]:
        """Load a server from all processes at once."""
        return self._run(lambda number: self._plan(target, port, inputs, number))

    def ceiling_per_s(self, inputs: Sequence[Any]) -> float:
        """Return the requests/s of all processes at once, each against a server of its own that does no work."""
        target = null_target()
        with ExitStack() as stack:
            ports = [stack.enter_context(start_server(target)).port for _ in range(self.processes)]
            return rate_per_s(self._run(lambda number: self._plan(target, ports[number], inputs, number)))

    def _run(self, plan: Callable[[int], LoadPlan]) -> list[LoadResult]:
        with ThreadPoolExecutor(self.processes) as pool:
            return list(pool.map(run_load, map(plan, range(self.processes))))

    def _plan(self, target: EndpointTarget, port: int, inputs: Sequence[Any], number: int) -> LoadPlan:
        """Plan the load of one process: its share of the connections, which begins elsewhere in the inputs."""
        connections = len(range(number, self.connections, self.processes))
        first = number * len(inputs) // self.processes
        turned = [*inputs[first:], *inputs[:first]]
        plan = plan_load(target, port, turned, connections=connections, seconds=self.seconds)
        return plan.model_copy(update={"warm_up_s": WARM_UP_S})


def rate_per_s(loads: Sequence[LoadResult]) -> float:
    """Return the requests/s of several load generators: the sum of the medians of their tenths.

    The first and the last tenth may lie where another one does not send.
    """
    rates = [np.median(load.answered_by_slice) * len(load.answered_by_slice) / load.seconds for load in loads]
    return round(float(sum(rates)), 1)


def check_answered(loads: Sequence[LoadResult]) -> None:
    """Raise a TuneportError if a request of a load was not answered with 200."""
    statuses = dict(sum((Counter(load.statuses) for load in loads), Counter[int]()))
    if statuses.keys() != {OK}:
        raise TuneportError(f"under load the service answered with the statuses {statuses}", "look at its log")
