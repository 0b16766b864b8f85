"""Time models side by side on the same rows, in turns, so that noise on the host affects all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits, pack_batches
from tuneport.schema.artifact import Device, Timing

BATCH_TOKENS: dict[Device, tuple[int, ...]] = {
    "cpu": (128, 512),
    "cuda": (1024, 4096, 16384, 65536),
    "tensorrt": (1024, 4096, 16384),
}
"""Padded tokens of the batches to try: a few short texts keep a CPU core busy, but not a GPU."""
FAST_ENOUGH = 0.97
"""Share of the highest throughput at which a smaller batch is preferred, because its rows wait for fewer others."""
TRIAL_ROWS, TRIALS = 64, 2
"""Rows and repetitions with which each batch size is tried."""


@dataclass(frozen=True)
class BenchmarkTarget:
    """A model to time."""

    run_batch: Callable[[Sequence[EncodedInput]], Any]
    streams: int = 1
    """Batches that it runs at the same time."""
    limits: tuple[BatchLimits, ...] = (BatchLimits(),)
    """Batch limits to choose among, in ascending order."""

    @classmethod
    def of_runner(cls, runner: ModelRunner, device: Device) -> "BenchmarkTarget":
        """Return a variant as it serves; only an encoder that runs several rows a batch has a choice of limits."""
        has_choice = runner.supports_streams and not runner.single_row_batches
        limits = candidate_limits(runner.limits, device) if has_choice else (runner.limits,)
        return cls(runner.run_batch, runner.streams, limits)


@dataclass(frozen=True)
class BenchmarkResult:
    """The timing of a target, and the padded tokens of its fastest batches."""

    timing: Timing
    max_batch_tokens: int


def candidate_limits(limits: BatchLimits, device: Device) -> tuple[BatchLimits, ...]:
    """Return the batch limits to try on a device; all but their tokens are those of `limits`."""
    return tuple(replace(limits, tokens=tokens) for tokens in BATCH_TOKENS[device])


def benchmark(
    targets: Mapping[str, BenchmarkTarget],
    rows: Sequence[EncodedInput],
    *,
    baseline: str,
    rounds: int = 3,
    singles: int = 100,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, BenchmarkResult]:
    """Time every target on rows, one row at a time and in batches of its best size.

    Targets take turns in each of `rounds` rounds. Throughput is the median of the rounds; latencies are percentiles
    over `singles` rows that ran alone. `speed_up` is relative to the throughput of `baseline`.
    """
    single_rows = _spread(rows, singles)
    latencies_ms: dict[str, list[float]] = {name: [] for name in targets}
    throughputs: dict[str, list[float]] = {name: [] for name in targets}
    best = {}
    for name, target in targets.items():
        progress(f"choosing the batch size of {name}")
        best[name] = _best_limits(target, _spread(rows, TRIAL_ROWS))
    for round_index in range(rounds):
        for name, target in targets.items():
            progress(f"round {round_index + 1} of {rounds}: {name}")
            throughputs[name].append(_rows_per_s(target, rows, best[name]))
            target.run_batch(single_rows[:1])
            for row in single_rows[round_index::rounds]:
                started = time.perf_counter()
                target.run_batch([row])
                latencies_ms[name].append((time.perf_counter() - started) * 1000)
    base = float(np.median(throughputs[baseline]))
    return {
        name: BenchmarkResult(
            _timing(len(rows), latencies_ms[name], float(np.median(throughputs[name])), base), best[name].tokens
        )
        for name in targets
    }


def _best_limits(target: BenchmarkTarget, rows: Sequence[EncodedInput]) -> BatchLimits:
    """Return the smallest limits whose throughput is about the highest."""
    if len(target.limits) == 1:
        return target.limits[0]
    _rows_per_s(target, rows, target.limits[0])  # warm-up
    speeds = [max(_rows_per_s(target, rows, limits) for _ in range(TRIALS)) for limits in target.limits]
    fast_enough = FAST_ENOUGH * max(speeds)
    return next(limits for limits, speed in zip(target.limits, speeds, strict=True) if speed >= fast_enough)


def _rows_per_s(target: BenchmarkTarget, rows: Sequence[EncodedInput], limits: BatchLimits) -> float:
    batches = [[rows[i] for i in batch] for batch in pack_batches([len(row) for row in rows], limits)]
    with ThreadPoolExecutor(target.streams) as pool:
        # Warm-up: caches hold the data of the target before this one, and each stream needs its thread.
        list(pool.map(target.run_batch, [batches[0]] * target.streams))
        started = time.perf_counter()
        list(pool.map(target.run_batch, batches[::-1]))  # the longest first, so that streams finish together
        return len(rows) / (time.perf_counter() - started)


def _timing(texts: int, latencies_ms: list[float], speed: float, base: float) -> Timing:
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(latencies_ms, (50, 95, 99)))
    return Timing(
        texts=texts,
        latency_ms_p50=p50,
        latency_ms_p95=p95,
        latency_ms_p99=p99,
        texts_per_s=round(speed, 1),
        speed_up=round(speed / base, 3),
    )


def _spread(rows: Sequence[EncodedInput], count: int) -> list[EncodedInput]:
    """Choose `count` rows, evenly spaced and in their order, so that lengths are mixed as in the data."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)]
