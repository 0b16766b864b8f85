"""One overload benchmark, top to bottom: cost of a refusal → full load → all loads by turns, in rounds."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuneport.errors import GateError
from tuneport.folders import check_out, new_folder
from tuneport.runtime.availability import VARIANT, variant_here, variant_of_environment
from tuneport.schema.loading import load_golden, load_manifest

from ..endpoint.processes import load_server, plan_load, start_server
from ..endpoint.rounds import latency_percentile
from ..endpoint.scenarios import MAX_OPEN_CONNECTIONS
from ..endpoint.targets import EndpointTarget, http_target
from ..load.plan import REFUSED, LoadPlan, LoadResult
from ..origin import origin_here
from ..report import REPORT, TABLE
from .refusal import refusal_cpu_us
from .results import OverloadLoad, OverloadReport

OVERLOAD_FACTOR = 2
QUEUE_SHARE = 0.75
"""The queue's limit, where one is set, as a share of the median latency at full load."""


@dataclass(frozen=True)
class LoadSpec:
    """One load on one of the two servers."""

    name: str
    target: EndpointTarget
    plan: LoadPlan
    max_queue_ms: float | None


def bench_overload(
    artifact: Path,
    out: Path,
    *,
    variant: str | None = None,
    connections: int = 32,
    rounds: int = 8,
    seconds: float = 3.0,
    overwrite: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> OverloadReport:
    """Load tuneport's HTTP endpoint and write report.json and report.md into `out`; returns the report.

    The golden inputs are sent in turn. `seconds` is the duration of each load in each round: what slows the machine for
    a while then slows all loads alike. Raises TuneportError if the server does not start or answers nothing.
    """
    check_out(out, marker=REPORT, overwrite=overwrite)
    manifest = load_manifest(artifact)
    variant = variant_here(manifest, variant or variant_of_environment(manifest, os.environ.get(VARIANT))).name
    target = http_target(artifact, variant)
    inputs = [case.input for case in load_golden(artifact)]
    progress("the cost of a refusal")
    refusal_us = refusal_cpu_us(artifact, variant)
    progress("full load, to set the others by it")
    with start_server(target) as server:
        plan = plan_load(target, server.port, inputs, connections=connections, seconds=seconds)
        full = load_server(target, plan)
        p50 = latency_percentile([full], 50)
        limit_ms = max(1, round(QUEUE_SHARE * (p50 or 0)))
        limited = _with_limit(target, limit_ms)
        with start_server(limited) as other:
            limited_plan = plan.model_copy(update={"port": other.port})
            rate = OVERLOAD_FACTOR * full.answered / full.seconds
            specs = [
                LoadSpec("full load", target, plan, None),
                *_double_loads(target, plan, None),
                *_double_loads(limited, limited_plan, limit_ms),
                _open_loop(limited, limited_plan, rate, limit_ms),
            ]
            loads = run_in_rounds(specs, rounds, progress)
    report = OverloadReport(
        name=manifest.name,
        version=manifest.version,
        variant=variant,
        loads=tuple(loads),
        refusal_cpu_us=refusal_us,
        **origin_here(),
    )
    with new_folder(out, marker=REPORT, overwrite=overwrite) as folder:
        (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / TABLE).write_text(report.markdown(), encoding="utf-8")
    return report


def run_in_rounds(specs: Sequence[LoadSpec], rounds: int, progress: Callable[[str], object]) -> list[OverloadLoad]:
    """Run every load once in each round, and summarize the rounds of each."""
    results: dict[str, list[LoadResult]] = {}
    keys = [f"{spec.name}, {spec.max_queue_ms}" for spec in specs]
    for number in range(rounds):
        for key, spec in zip(keys, specs, strict=True):
            progress(f"round {number + 1} of {rounds}: {spec.name}")
            results.setdefault(key, []).append(load_server(spec.target, spec.plan))
    return [summarize(spec, results[key]) for key, spec in zip(keys, specs, strict=True)]


def summarize(spec: LoadSpec, loads: Sequence[LoadResult]) -> OverloadLoad:
    """Add the rounds of one load up; raises GateError if the server answered too little in one."""
    p50, p99 = (latency_percentile(loads, percent) for percent in (50, 99))
    if p50 is None or p99 is None or not all(load.answered for load in loads):
        raise GateError(f"too few requests were answered: {spec.name}", "raise --seconds, or see the server's log")
    statuses: Mapping[int, int] = {
        status: sum(load.statuses.get(status, 0) for load in loads) for load in loads for status in load.statuses
    }
    seconds, warm_up_s = math.fsum(load.seconds for load in loads), spec.plan.warm_up_s * len(loads)
    return OverloadLoad(
        name=spec.name,
        max_queue_ms=spec.max_queue_ms,
        connections=None if spec.plan.requests_per_s else spec.plan.connections,
        goodput_per_s=round(sum(load.answered for load in loads) / seconds, 1),
        goodput_by_round=tuple(round(load.answered / load.seconds, 1) for load in loads),
        latency_ms_p50=p50,
        latency_ms_p99=p99,
        refused_per_s=round(statuses.get(REFUSED, 0) / (seconds + warm_up_s), 1),
        statuses=dict(statuses),
        client_cores=round(math.fsum(load.client_cpu_s for load in loads) / seconds, 3),
    )


def _double_loads(target: EndpointTarget, plan: LoadPlan, max_queue_ms: float | None) -> list[LoadSpec]:
    """Return twice as many clients, which retry at once and which back off."""
    double = plan.model_copy(update={"connections": OVERLOAD_FACTOR * plan.connections})
    backs_off = double.model_copy(update={"backs_off": True})
    return [
        LoadSpec("twice the clients, retry at once", target, double, max_queue_ms),
        LoadSpec("twice the clients, back off", target, backs_off, max_queue_ms),
    ]


def _open_loop(target: EndpointTarget, plan: LoadPlan, rate: float, max_queue_ms: float) -> LoadSpec:
    changes = {"requests_per_s": rate, "connections": MAX_OPEN_CONNECTIONS}
    name = f"{rate:.0f} requests/s at random times, no retries"
    return LoadSpec(name, target, plan.model_copy(update=changes), max_queue_ms)


def _with_limit(target: EndpointTarget, max_queue_ms: float) -> EndpointTarget:
    return replace(target, environment={**target.environment, "TUNEPORT_MAX_QUEUE_MS": str(max_queue_ms)})
