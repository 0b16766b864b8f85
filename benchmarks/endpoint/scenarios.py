"""What is measured beside the rounds: the load generator's own limit, overload, and one short text."""

from collections.abc import Callable, Sequence

import numpy as np

from ..load.plan import OK
from .processes import load_server, plan_load, resource_usage, run_load, start_server
from .results import ClientCeiling, OverloadResult, RateResult, RateSearch, ShortTextResult, TargetResult
from .rounds import latency_percentile
from .setup import EndpointSetup
from .short import select_short_text, time_runner
from .targets import EndpointTarget, null_target

MAX_OPEN_CONNECTIONS = 2048
"""Of the open loop; more would overload the client instead of the server."""
MAX_SIDE_SECONDS = 3.0
"""Of measurements that need less time than a level of the rounds."""
OVERLOAD_FACTOR = 2
SEARCH_STEPS = 6
"""Rates that the search tries; each halves the range that is left."""
MAX_RATE_FACTOR = 1.2
"""Highest rate of the search, as a multiple of the highest throughput in a closed loop."""
MIN_ARRIVALS, MAX_RATE_SECONDS = 150, 30.0
"""Requests of each rate, so that there is a p99, and how long to wait for so many."""


def measure_client_ceilings(setup: EndpointSetup) -> tuple[ClientCeiling, ...]:
    """Load a server that does no work, with every number of connections."""
    target, seconds = null_target(), min(MAX_SIDE_SECONDS, setup.config.seconds)
    ceilings = []
    with start_server(target) as server:
        for connections in setup.config.connections:
            plan = plan_load(target, server.port, setup.inputs, connections=connections, seconds=seconds)
            load = load_server(target, plan)
            ceilings.append(
                ClientCeiling(
                    connections=connections,
                    requests_per_s=round(load.answered / load.seconds, 1),
                    client_cpu_ms_per_request=round(1000 * load.client_cpu_s / max(1, load.answered), 4),
                )
            )
    return tuple(ceilings)


def measure_overload(setup: EndpointSetup, http_result: TargetResult) -> OverloadResult:
    """Send tuneport's HTTP endpoint twice its highest throughput in an open loop."""
    best = http_result.best_level
    offered_per_s = OVERLOAD_FACTOR * best.requests_per_s
    with start_server(setup.http) as server:
        plan = plan_load(
            setup.http,
            server.port,
            setup.inputs,
            connections=MAX_OPEN_CONNECTIONS,
            seconds=setup.config.seconds,
        )
        load = run_load(plan.model_copy(update={"requests_per_s": offered_per_s}))
    return OverloadResult(
        offered_per_s=offered_per_s,
        goodput_per_s=round(load.answered / load.seconds, 1),
        best_per_s=best.requests_per_s,
        latency_ms_p99=latency_percentile([load], 99),
        full_load_ms_p99=best.latency_ms_p99,
        statuses=load.statuses,
    )


def search_rates(setup: EndpointSetup, results: Sequence[TargetResult], slo_p99_ms: float) -> tuple[RateSearch, ...]:
    """Search for the highest rate of every server that holds the objective; one that cannot reach it has None."""
    searches = []
    targets = {target.name: target for target in setup.targets}
    for result in results:
        target = targets[result.name]
        with start_server(target) as server:

            def measure(rate: float, target: EndpointTarget = target, port: int = server.port) -> RateResult:
                return measure_rate(setup, target, port, rate, slo_p99_ms)

            highest, rates = highest_rate(measure, MAX_RATE_FACTOR * result.best_level.requests_per_s)
        searches.append(RateSearch(name=target.name, slo_p99_ms=slo_p99_ms, highest_per_s=highest, rates=rates))
    return tuple(searches)


def measure_rate(
    setup: EndpointSetup, target: EndpointTarget, port: int, requests_per_s: float, slo_p99_ms: float
) -> RateResult:
    """Load a running server in an open loop, long enough for a p99."""
    seconds = min(MAX_RATE_SECONDS, max(setup.config.seconds, MIN_ARRIVALS / requests_per_s))
    plan = plan_load(target, port, setup.inputs, connections=MAX_OPEN_CONNECTIONS, seconds=seconds)
    load = run_load(plan.model_copy(update={"requests_per_s": requests_per_s}))
    p50, p99 = (latency_percentile([load], percent) for percent in (50, 99))
    failed = sum(count for status, count in load.statuses.items() if status != OK)
    return RateResult(
        offered_per_s=round(requests_per_s, 1),
        answered_per_s=round(load.answered / load.seconds, 1),
        latency_ms_p50=p50,
        latency_ms_p99=p99,
        failed=failed,
        client_cpu_share=round(load.client_cpu_s / load.seconds, 3),
        holds=failed == 0 and p99 is not None and p99 <= slo_p99_ms,
    )


def highest_rate(
    measure: Callable[[float], RateResult], limit_per_s: float, steps: int = SEARCH_STEPS
) -> tuple[float | None, tuple[RateResult, ...]]:
    """Bisect the rates up to a limit; returns the highest that held, None if none did, and all that were measured."""
    low, high = 0.0, limit_per_s
    rates: list[RateResult] = []
    for _ in range(steps):
        rates.append(measure((low + high) / 2))
        if rates[-1].holds:
            low = (low + high) / 2
        else:
            high = (low + high) / 2
    return (round(low, 1) if low else None), tuple(rates)


def measure_short_text(setup: EndpointSetup) -> ShortTextResult | None:
    """Time one short text over HTTP on one connection, and the engine alone; None if inputs are not plain texts."""
    selected = select_short_text(setup.runner.task, setup.inputs)
    if selected is None:
        return None
    text, row = selected
    engine_ms, engine_cpu_ms = time_runner(setup.runner, row, min(MAX_SIDE_SECONDS, setup.config.seconds))
    with start_server(setup.http) as server:
        usage_before = resource_usage(server.pid)
        plan = plan_load(setup.http, server.port, [text], connections=1, seconds=setup.config.seconds)
        load = load_server(setup.http, plan)
        cpu_s = resource_usage(server.pid).cpu_s - usage_before.cpu_s
    return ShortTextResult(
        tokens=len(row),
        latency_ms_p50=round(float(np.median(load.latencies_ms)), 3),
        engine_ms_p50=engine_ms,
        cpu_ms_per_request=round(1000 * cpu_s / max(1, load.sent), 3),
        engine_cpu_ms=engine_cpu_ms,
    )
