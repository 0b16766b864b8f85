"""The rounds of the benchmark: one server at a time is started, checked, loaded and stopped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tuneport.errors import TuneportError
from tuneport.gpu import GpuMeter, GpuUsage
from tuneport.schema.artifact import Interval
from tuneport.stages.export.intervals import median_interval, percentile, quantiles

from ..load.plan import OK, LoadResult
from .check import check_agreement, count_changed, request_predictions
from .metrics import TokenCounts, padding_share, read_token_counts, tokens_between
from .processes import ResourceUsage, RunningServer, load_server, plan_load, resource_usage, start_server
from .results import LevelResult, TargetResult
from .setup import EndpointSetup
from .targets import EndpointTarget

Item = TypeVar("Item")
COMPARED_INPUTS = 50
"""Inputs whose predictions under load are compared with those without load."""


@dataclass(frozen=True)
class LevelRun:
    """One server under one load, in one round."""

    load: LoadResult
    cpu_ms_per_request: float
    """CPU time of all processes of the server."""
    tokens: TokenCounts | None
    num_changed: int
    """Compared inputs with another prediction under load."""


@dataclass(frozen=True)
class TargetRound:
    """One server in one round."""

    ready_s: float
    agreement: float
    levels: dict[int, LevelRun]
    """Number of connections → what was measured with so many."""
    usage: ResourceUsage
    """After the load."""


def in_order_of_round(items: Sequence[Item], index: int) -> Sequence[Item]:
    """Return what is measured in a round, in reverse order every other round: what drifts then favors nothing."""
    return items if index % 2 == 0 else items[::-1]


def run_rounds(
    setup: EndpointSetup, progress: Callable[[str], object]
) -> tuple[tuple[TargetResult, ...], tuple[str, ...]]:
    """Time every target once a round, in reverse order every other round.

    Returns a summary of each, and a sentence for each peer that was left out because it did not start or was wrong.
    """
    rounds: dict[str, list[TargetRound]] = {target.name: [] for target in setup.targets}
    left_out: dict[str, str] = {}
    for index in range(setup.config.rounds):
        for target in in_order_of_round(setup.targets, index):
            if target.name in left_out:
                continue
            progress(f"round {index + 1} of {setup.config.rounds}: {target.name}")
            try:
                rounds[target.name].append(run_round(setup, target))
            except TuneportError as error:
                if not target.is_peer:
                    raise
                left_out[target.name] = error.problem
    timed = {name: target_rounds for name, target_rounds in rounds.items() if name not in left_out}
    notes = tuple(f"{name} was left out: {problem.rstrip('.')}." for name, problem in left_out.items())
    return tuple(summarize(name, target_rounds, setup.meter) for name, target_rounds in timed.items()), notes


def run_round(setup: EndpointSetup, target: EndpointTarget) -> TargetRound:
    """Start a server, check its predictions, and load it with every number of connections in turn."""
    with setup.meter.measure(target.name), start_server(target) as server:
        least = setup.least_agreement(target)
        share = check_agreement(target, server.port, setup.runner.task, setup.expected, least)
        unloaded = request_predictions(target, server.port, setup.inputs[:COMPARED_INPUTS])
        levels = {
            connections: run_level(setup, target, server, connections, unloaded)
            for connections in setup.config.connections
        }
        return TargetRound(server.ready_s, share, levels, resource_usage(server.pid))


def run_level(
    setup: EndpointSetup, target: EndpointTarget, server: RunningServer, connections: int, unloaded: Sequence[object]
) -> LevelRun:
    """Load a running server and measure it meanwhile; `unloaded` are its predictions without load."""
    plan = plan_load(target, server.port, setup.inputs, connections=connections, seconds=setup.config.seconds)
    usage_before, tokens_before = resource_usage(server.pid), read_token_counts(server.http_port)
    with setup.meter.measure(_level_name(target.name, connections)) as totals:
        load = load_server(target, plan)
        totals.texts += load.sent
    cpu_s = resource_usage(server.pid).cpu_s - usage_before.cpu_s
    return LevelRun(
        load=load,
        cpu_ms_per_request=1000 * cpu_s / load.sent,
        tokens=tokens_between(tokens_before, read_token_counts(server.http_port)),
        num_changed=count_changed(target, setup.runner.task, unloaded, load.last_bodies),
    )


def summarize(name: str, rounds: Sequence[TargetRound], meter: GpuMeter) -> TargetResult:
    """Combine the rounds of one target."""
    gpu_memory_mib = meter.usage(name).memory_mib
    return TargetResult(
        name=name,
        agreement=round(rounds[-1].agreement, 4),
        changed_under_load=sum(level.num_changed for each in rounds for level in each.levels.values()),
        ready_s=round(float(np.median([each.ready_s for each in rounds])), 2),
        worker_mib=round(max(each.usage.worker_mib for each in rounds), 1),
        total_mib=round(max(each.usage.total_mib for each in rounds), 1),
        gpu_memory_mib=None if gpu_memory_mib is None else round(gpu_memory_mib / len(rounds), 1),
        levels=tuple(
            _summarize_level(
                connections,
                [each.levels[connections] for each in rounds],
                meter.usage(_level_name(name, connections)),
            )
            for connections in rounds[0].levels
        ),
    )


def all_latencies_ms(loads: Sequence[LoadResult]) -> list[float]:
    """Return the latencies of several loads together."""
    return [latency for load in loads for latency in load.latencies_ms]


def latency_percentile(loads: Sequence[LoadResult], percent: float) -> float | None:
    """Return a percentile of the latencies of several loads together, in ms; None if there are too few for it."""
    value = percentile(all_latencies_ms(loads), percent)
    return None if value is None else round(value, 3)


def _rate_interval(loads: Sequence[LoadResult]) -> Interval:
    """Return the confidence interval of the median rate of the loads' tenths."""
    rates = [len(load.answered_by_slice) * count / load.seconds for load in loads for count in load.answered_by_slice]
    low, high = median_interval(rates)
    return round(low, 1), round(high, 1)


def _p50_interval(loads: Sequence[LoadResult]) -> Interval:
    """Return the interval from the lowest to the highest median of the rounds.

    Latencies of one load depend on each other, because its requests share batches: a bootstrap over them would claim
    too much.
    """
    medians = [round(float(np.median(load.latencies_ms)), 3) for load in loads]
    return min(medians), max(medians)


def _level_name(name: str, connections: int) -> str:
    return f"{name} at {connections}"


def _summarize_level(connections: int, runs: Sequence[LevelRun], gpu: GpuUsage) -> LevelResult:
    loads = [run.load for run in runs]
    latencies_ms = all_latencies_ms(loads)
    return LevelResult(
        connections=connections,
        requests_per_s=round(float(np.median([load.answered / load.seconds for load in loads])), 1),
        requests_per_s_interval=_rate_interval(loads),
        latency_ms_p50=round(float(np.median(latencies_ms)), 3),
        latency_ms_p50_interval=_p50_interval(loads),
        latency_ms_p95=round(float(np.percentile(latencies_ms, 95)), 3),
        latency_ms_p99=latency_percentile(loads, 99),
        latency_ms_p999=latency_percentile(loads, 99.9),
        latency_ms_quantiles=quantiles(latencies_ms),
        errors=sum(count for load in loads for status, count in load.statuses.items() if status != OK),
        cpu_ms_per_request=round(float(np.median([run.cpu_ms_per_request for run in runs])), 3),
        padding_share=padding_share([run.tokens for run in runs]),
        gpu_utilization=gpu.utilization,
        energy_j_per_1000_requests=gpu.energy_j_per_1000_texts,
        client_cpu_share=round(max(load.client_cpu_s / load.seconds for load in loads), 3),
    )
