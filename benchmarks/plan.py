"""How many machines a traffic needs and what they cost, from the measured figures of an endpoint report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tuneport.errors import DataError, TuneportError

from .compare import read_report
from .config import PlanConfig
from .endpoint.results import EndpointReport, LevelResult, TargetResult
from .report import milliseconds

HOURS_PER_MONTH = 730
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Capacity:
    """What one machine of the report carries with a server within the objective."""

    requests_per_s: float
    latency_ms_p99: float
    is_open_loop: bool
    """Whether requests arrived at random times, as those of users do, or after each other's answers."""


@dataclass(frozen=True)
class ServerPlan:
    """One server: its capacity, the machines for the rate, and their cost."""

    name: str
    capacity: Capacity | None
    """None if it held the objective in no measurement."""
    machines: int = 0
    cost_per_hour: float | None = None


@dataclass(frozen=True)
class Plan:
    """What to run for a rate, one entry a server, the fewest machines first."""

    config: PlanConfig
    report: EndpointReport
    servers: tuple[ServerPlan, ...]

    @property
    def machine(self) -> str:
        """Name the machine that the report was made on."""
        host = self.report.host
        gpu = f"{host.gpus[0].name}, " if self.report.device == "cuda" and host.gpus else ""
        return f"{gpu}{host.cpu}, {host.cores} cores, {host.memory_gib:g} GiB"

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the table as text: its header, and a row for each server."""
        header = ["", "requests/s a machine", "p99 ms", "measured in", "machines", "busy"]
        if self.config.cost_per_hour is not None:
            header += ["cost an hour", "a month", "a million requests"]
        rows = [self._row(each) for each in self.servers]
        return header, [row + [""] * (len(header) - len(row)) for row in rows]

    def caption(self) -> str:
        """Say what the figures rest on."""
        config = self.config
        return (
            f"{config.rate:g} requests/s with p99 within {config.p99_ms:g} ms; {config.headroom:.0%} of each machine "
            f"kept free. A machine: {self.machine}, shared with the load generator. Figures of a closed loop are "
            "limits from above: bench-endpoint with --slo-p99-ms measures random arrivals."
        )

    def _row(self, server: ServerPlan) -> list[str]:
        capacity = server.capacity
        if capacity is None:
            return [server.name, "does not hold it"]
        row = [
            server.name,
            f"{capacity.requests_per_s:.0f}",
            milliseconds(capacity.latency_ms_p99),
            "open loop" if capacity.is_open_loop else "closed loop",
            str(server.machines),
            f"{self.config.rate / (server.machines * capacity.requests_per_s):.0%}",
        ]
        if server.cost_per_hour is not None:
            hour = server.cost_per_hour
            million = hour * 1e6 / (self.config.rate * SECONDS_PER_HOUR)
            row += [f"{hour:.2f}", f"{hour * HOURS_PER_MONTH:.0f}", f"{million:.3g}"]
        return row


def plan(config: PlanConfig) -> Plan:
    """Return the machines that each server of a report needs for a rate within the objective.

    Raises DataError for a file that is no endpoint report, and TuneportError if no server held the objective in any
    measurement.
    """
    report = read_report(config.report)
    if not isinstance(report, EndpointReport):
        raise DataError(f"{config.report} is a report of the {report.kind}", "give one of `tuneport bench-endpoint`")
    servers = [_plan_server(report, result, config) for result in report.results]
    if all(server.capacity is None for server in servers):
        raise TuneportError(
            f"no server of {config.report} answered with p99 within {config.p99_ms:g} ms: {_lowest_p99(report)}",
            "raise --p99-ms, or measure with --slo-p99-ms, or with fewer --connections",
        )
    ordered = sorted(servers, key=lambda each: (each.capacity is None, each.machines))
    return Plan(config, report, tuple(ordered))


def capacity_of(report: EndpointReport, result: TargetResult, p99_ms: float) -> Capacity | None:
    """Return the highest rate at which a server was seen to hold an objective: in the open loop if that was measured.

    In a closed loop the lower end of the rate's confidence interval counts.
    """
    searched = [rate for search in report.rate_searches if search.name == result.name for rate in search.rates]
    open_loop = [
        Capacity(rate.offered_per_s, rate.latency_ms_p99, is_open_loop=True)
        for rate in searched
        if rate.latency_ms_p99 is not None and rate.latency_ms_p99 <= p99_ms and not rate.failed
    ]
    closed_loop = [
        Capacity(_lowest_rate(level), level.latency_ms_p99, is_open_loop=False)
        for level in result.levels
        if level.latency_ms_p99 is not None and level.latency_ms_p99 <= p99_ms and not level.errors
    ]
    found: Sequence[Capacity] = open_loop if searched else closed_loop
    return max((each for each in found if each.requests_per_s > 0), key=lambda each: each.requests_per_s, default=None)


def _lowest_rate(level: LevelResult) -> float:
    return level.requests_per_s if level.requests_per_s_interval is None else level.requests_per_s_interval[0]


def _plan_server(report: EndpointReport, result: TargetResult, config: PlanConfig) -> ServerPlan:
    capacity = capacity_of(report, result, config.p99_ms)
    if capacity is None:
        return ServerPlan(result.name, None)
    machines = math.ceil(config.rate / (capacity.requests_per_s * (1 - config.headroom)))
    cost = None if config.cost_per_hour is None else machines * config.cost_per_hour
    return ServerPlan(result.name, capacity, machines, cost)


def _lowest_p99(report: EndpointReport) -> str:
    found = [level.latency_ms_p99 for result in report.results for level in result.levels if level.latency_ms_p99]
    return f"the lowest p99 is {min(found):.1f} ms" if found else "no p99 was measured, there were too few requests"
