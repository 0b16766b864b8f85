"""Time models side by side on the same rows, in turns, so that noise on the host affects all of them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tuneport.gpu import GpuMeter
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.device_errors import classify
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits, pack_batches
from tuneport.schema.artifact import Device, Precision, Timing
from tuneport.schema.torch_setup import TorchSetup

from .baselines import choose_baseline
from .reference import TorchModel

BATCH_TOKENS: dict[Device, tuple[int, ...]] = {
    "cpu": (128, 512),
    "cuda": (1024, 4096, 16384, 65536),
    "tensorrt": (1024, 4096, 16384),
}
"""Padded tokens of the batches to try: a few short texts keep a CPU core busy, but not a GPU."""
FAST_ENOUGH = 0.97
"""Share of the highest throughput at which a smaller batch is preferred, because its rows wait for fewer others."""
TRIAL_ROWS, TRIALS = 64, 2
"""Fewest rows, and repetitions, with which each batch size is tried."""
MIN_SECONDS: dict[Device, float] = {"cpu": 0.0, "cuda": 0.5, "tensorrt": 0.5}
"""Throughput is that of one pass over the rows, or of as many as take so long: a GPU needs milliseconds for one, and
its counters of energy and utilization see no less than a few tenths of a second."""


@dataclass(frozen=True)
class BenchmarkTarget:
    """A model to time."""

    run_batch: Callable[[Sequence[EncodedInput]], Any]
    """Runs one batch; returns when the outputs are on the host."""
    torch: TorchSetup | None = None
    """Of a baseline; None for a variant."""
    precision: Precision = "fp32"
    min_seconds: float = 0.0
    """Throughput is measured for at least so long."""
    streams: int = 1
    """Batches that it runs at the same time."""
    limits: tuple[BatchLimits, ...] = (BatchLimits(),)
    """Batch limits to choose among, in ascending order."""

    @classmethod
    def of_runner(cls, runner: ModelRunner, device: Device, precision: Precision) -> "BenchmarkTarget":
        """Return a variant as it serves; only an encoder that runs several rows a batch has a choice of limits."""
        has_choice = runner.supports_streams and not runner.single_row_batches
        limits = candidate_limits(runner.limits, device) if has_choice else (runner.limits,)
        return cls(
            runner.run_batch,
            precision=precision,
            min_seconds=MIN_SECONDS[device],
            streams=runner.streams,
            limits=limits,
        )

    @classmethod
    def of_torch(cls, model: TorchModel, *, has_batch_choice: bool) -> "BenchmarkTarget":
        """Return a baseline, which has the same choice of limits as the variants of its device."""
        setup = model.setup
        limits = candidate_limits(BatchLimits(), setup.device) if has_batch_choice else (BatchLimits(),)
        return cls(model.run_batch, setup, setup.precision, MIN_SECONDS[setup.device], limits=limits)


@dataclass(frozen=True)
class BenchmarkResult:
    """The timing of a target, and the padded tokens of its fastest batches."""

    timing: Timing
    max_batch_tokens: int


def enough_rows(rows: Sequence[EncodedInput], device: Device) -> list[EncodedInput]:
    """Repeat rows until they fill the largest batch of a GPU twice; on a CPU one pass over them is enough."""
    if device == "cpu" or not rows:
        return list(rows)
    tokens = sum(len(row) for row in rows)
    return list(rows) * max(1, math.ceil(2 * BATCH_TOKENS[device][-1] / tokens))


def candidate_limits(limits: BatchLimits, device: Device) -> tuple[BatchLimits, ...]:
    """Return the batch limits to try on a device; all but their tokens are those of `limits`."""
    return tuple(replace(limits, tokens=tokens) for tokens in BATCH_TOKENS[device])


def benchmark(
    targets: Mapping[str, BenchmarkTarget],
    rows: Sequence[EncodedInput],
    *,
    rounds: int = 3,
    singles: int = 100,
    meter: GpuMeter | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, BenchmarkResult]:
    """Time every target on rows, one row at a time and in batches of its best size.

    Targets take turns in each of `rounds` rounds. Throughput is the median of the rounds; latencies are percentiles
    over `singles` rows that ran alone. `speed_up` is relative to the fastest baseline among the targets that has the
    precision class of the target. `meter` measures the GPU while throughput is measured.
    """
    meter = meter or GpuMeter()
    single_rows = _spread(rows, singles)
    latencies_ms: dict[str, list[float]] = {name: [] for name in targets}
    throughputs: dict[str, list[float]] = {name: [] for name in targets}
    best = {}
    for name, target in targets.items():
        progress(f"choosing the batch size of {name}")
        best[name] = _best_limits(target, _spread(rows, _trial_rows(rows, target)))
    for round_index in range(rounds):
        for name, target in targets.items():
            progress(f"round {round_index + 1} of {rounds}: {name}")
            throughputs[name].append(_rows_per_s(target, rows, best[name], meter, name))
            target.run_batch(single_rows[:1])
            for row in single_rows[round_index::rounds]:
                started = time.perf_counter()
                target.run_batch([row])
                latencies_ms[name].append((time.perf_counter() - started) * 1000)
    speeds = {name: float(np.median(values)) for name, values in throughputs.items()}
    baselines = {name: target.torch for name, target in targets.items() if target.torch}
    results = {}
    for name, target in targets.items():
        baseline = choose_baseline(target.precision, baselines, speeds)
        timing = _timing(len(rows), latencies_ms[name], speeds[name], baseline, speeds[baseline])
        results[name] = BenchmarkResult(timing, best[name].tokens)
    return results


def _trial_rows(rows: Sequence[EncodedInput], target: BenchmarkTarget) -> int:
    """Return how many rows try each batch size: at least as many as fill the largest batch."""
    mean_length = float(np.mean([len(row) for row in rows]))
    return max(TRIAL_ROWS, math.ceil(target.limits[-1].tokens / mean_length))


def _best_limits(target: BenchmarkTarget, rows: Sequence[EncodedInput]) -> BatchLimits:
    """Return the smallest limits whose throughput is about the highest, of those that fit into the device's memory."""
    if len(target.limits) == 1:
        return target.limits[0]
    trial = replace(target, min_seconds=0.0)
    _rows_per_s(trial, rows, target.limits[0])  # warm-up
    speeds: list[float] = []
    for limits in target.limits:
        try:
            speeds.append(max(_rows_per_s(trial, rows, limits) for _ in range(TRIALS)))
        except Exception as error:  # of any engine
            if not speeds or classify(error) != "memory":
                raise
            break  # larger batches do not fit either
    fast_enough = FAST_ENOUGH * max(speeds)
    return next(limits for limits, speed in zip(target.limits, speeds, strict=False) if speed >= fast_enough)


def _rows_per_s(
    target: BenchmarkTarget,
    rows: Sequence[EncodedInput],
    limits: BatchLimits,
    meter: GpuMeter | None = None,
    name: str = "",
) -> float:
    batches = [[rows[i] for i in batch] for batch in pack_batches([len(row) for row in rows], limits)]
    with ThreadPoolExecutor(target.streams) as pool:
        # Warm-up: caches hold the data of the target before this one, and each stream needs its thread.
        list(pool.map(target.run_batch, [batches[0]] * target.streams))
        with (meter or GpuMeter()).measure(name) as usage:
            started, done = time.perf_counter(), 0
            while done == 0 or time.perf_counter() - started < target.min_seconds:
                list(pool.map(target.run_batch, batches[::-1]))  # the longest first, so that streams finish together
                done += len(rows)
            speed = done / (time.perf_counter() - started)
            usage.texts += done
        return speed


def _timing(texts: int, latencies_ms: list[float], speed: float, baseline: str, baseline_speed: float) -> Timing:
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(latencies_ms, (50, 95, 99)))
    return Timing(
        texts=texts,
        latency_ms_p50=p50,
        latency_ms_p95=p95,
        latency_ms_p99=p99,
        texts_per_s=round(speed, 1),
        speed_up=round(speed / baseline_speed, 3),
        baseline=baseline,
    )


def _spread(rows: Sequence[EncodedInput], count: int) -> list[EncodedInput]:
    """Choose `count` rows, evenly spaced and in their order, so that lengths are mixed as in the data."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)]
