"""One overload benchmark, top to bottom: full load → twice the load → with a limit of the queue → cost of a refusal."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tuneport.errors import GateError
from tuneport.folders import check_out, git_commit, new_folder
from tuneport.host import Host
from tuneport.schema.loading import load_golden, load_manifest

from ..endpoint.processes import RunningServer, load_server, plan_load, start_server
from ..endpoint.rounds import latency_percentile
from ..endpoint.scenarios import MAX_OPEN_CONNECTIONS
from ..endpoint.targets import EndpointTarget, http_target
from ..load.plan import REFUSED, LoadPlan
from ..report import REPORT, TABLE
from .refusal import refusal_cpu_us
from .results import OverloadLoad, OverloadReport

OVERLOAD_FACTOR = 2
QUEUE_SHARE = 0.75
"""The queue's limit, where one is set, as a share of the median latency at full load."""


def bench_overload(
    artifact: Path,
    out: Path,
    *,
    variant: str | None = None,
    connections: int = 32,
    seconds: float = 8.0,
    progress: Callable[[str], object] = lambda _: None,
) -> OverloadReport:
    """Load tuneport's HTTP endpoint and write report.json and report.md into `out`; returns the report.

    The golden inputs are sent in turn. Raises TuneportError if the server does not start or answers nothing.
    """
    check_out(out, marker=REPORT, overwrite=False)
    manifest, target = load_manifest(artifact), http_target(artifact, variant)
    inputs = [case.input for case in load_golden(artifact)]
    progress("full load and twice the load, with the default settings")
    with start_server(target) as server:
        plan = plan_load(target, server.port, inputs, connections=connections, seconds=seconds)
        full = measure(target, plan, "full load", None)
        loads = [full, *_double_loads(target, server, plan, None)]
    limit_ms = round(QUEUE_SHARE * full.latency_ms_p50)
    progress(f"the same with a queue of at most {limit_ms} ms")
    limited = _with_limit(target, limit_ms)
    with start_server(limited) as server:
        plan = plan.model_copy(update={"port": server.port})
        loads += _double_loads(limited, server, plan, limit_ms)
        rate = OVERLOAD_FACTOR * full.goodput_per_s
        open_plan = plan.model_copy(update={"requests_per_s": rate, "connections": MAX_OPEN_CONNECTIONS})
        loads.append(measure(limited, open_plan, f"{rate:.0f} requests/s at random times, no retries", limit_ms))
    progress("the cost of a refusal")
    report = OverloadReport(
        name=manifest.name,
        version=manifest.version,
        variant=manifest.variant(variant).name,
        loads=tuple(loads),
        refusal_cpu_us=refusal_cpu_us(artifact, variant),
        host=Host.here(),
        git_commit=git_commit(Path(__file__).parent),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with new_folder(out, marker=REPORT) as folder:
        (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / TABLE).write_text(report.markdown(), encoding="utf-8")
    return report


def measure(target: EndpointTarget, plan: LoadPlan, name: str, max_queue_ms: float | None) -> OverloadLoad:
    """Run one load; raises GateError if the server answers nothing."""
    load = load_server(target, plan)
    p50, p99 = (latency_percentile([load], percent) for percent in (50, 99))
    if p50 is None or p99 is None:
        raise GateError(f"no request was answered: {name}", "see the server's log")
    statuses = dict(load.statuses)
    return OverloadLoad(
        name=name,
        max_queue_ms=max_queue_ms,
        connections=None if plan.requests_per_s else plan.connections,
        goodput_per_s=round(load.answered / load.seconds, 1),
        latency_ms_p50=p50,
        latency_ms_p99=p99,
        refused_per_s=round(statuses.get(REFUSED, 0) / (plan.seconds + plan.warm_up_s), 1),
        statuses=statuses,
    )


def _double_loads(
    target: EndpointTarget, server: RunningServer, plan: LoadPlan, max_queue_ms: float | None
) -> list[OverloadLoad]:
    """Measure twice as many clients, which retry at once and which back off."""
    double = plan.model_copy(update={"connections": OVERLOAD_FACTOR * plan.connections, "port": server.port})
    return [
        measure(target, double, "twice the clients, retry at once", max_queue_ms),
        measure(target, double.model_copy(update={"backs_off": True}), "twice the clients, back off", max_queue_ms),
    ]


def _with_limit(target: EndpointTarget, max_queue_ms: float) -> EndpointTarget:
    environment = {**target.environment, "TUNEPORT_MAX_QUEUE_MS": str(max_queue_ms)}
    return EndpointTarget(**{**vars(target), "environment": environment})
