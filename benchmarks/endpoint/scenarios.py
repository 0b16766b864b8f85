"""What is measured beside the rounds: the load generator's own limit, overload, and one short text."""

from .processes import load_server, plan_load, resource_usage, run_load, start_server
from .results import ClientCeiling, OverloadResult, ShortTextResult, TargetResult
from .rounds import latency_percentile
from .setup import EndpointSetup
from .short import select_short_text, time_runner
from .targets import null_target

MAX_OPEN_CONNECTIONS = 2048
"""Of the open loop; more would overload the client instead of the server."""
MAX_SIDE_SECONDS = 3.0
"""Of measurements that need less time than a level of the rounds."""
OVERLOAD_FACTOR = 2


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
        latency_ms_p50=latency_percentile([load], 50),
        engine_ms_p50=engine_ms,
        cpu_ms_per_request=round(1000 * cpu_s / max(1, load.sent), 3),
        engine_cpu_ms=engine_cpu_ms,
    )
