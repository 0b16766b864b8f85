"""Time models side by side on the same rows, in turns, until the intervals of their speed-ups are narrow enough."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tuneport.gpu import GpuMeter
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BATCH_TOKENS, BatchLimits, candidate_limits
from tuneport.schema.artifact import Device, Interval, Precision, Timing
from tuneport.schema.torch_setup import TorchSetup

from .baselines import choose_baseline
from .batch_size import best_limits
from .intervals import half_width, median_interval, percentile, quantiles, ratio_interval
from .reference import TorchModel
from .turns import Stop, Worker, pack, split_rows, time_single_rows, time_turns

MIN_SECONDS: dict[Device, float] = {"cpu": 0.0, "cuda": 0.02, "tensorrt": 0.02}
"""A turn lasts at least so long: a GPU needs a millisecond for a batch, and a single hiccup would count as much."""
METERED_SECONDS = 0.5
"""A GPU's counters of energy and utilization see no less than a few tenths of a second."""
BATCHES_PER_TURN: dict[Device, int] = {"cpu": 2, "cuda": 1, "tensorrt": 1}
"""Of the largest size that any target has, and for each of its streams."""
MIN_TURNS, ENOUGH_TURNS, MAX_TURNS = 8, 5, 40
"""Turns before an interval is trusted, those after which the limits of time hold, and those after which more of them
would hardly narrow an interval."""
PRECISION, MAX_SECONDS = 0.05, 4.0
"""Defaults of `benchmark`."""
TIE = 1.05
"""Up to this ratio of two speeds the simpler model is as good: 5 % is what the benchmark resolves by default."""
PATIENCE = 2
"""How many times as long it goes on where the fastest variant and a simpler one cannot be told apart."""
ENOUGH_SINGLES = 20
"""Single rows after which the limit of time holds: as many as p95 needs."""


@dataclass(frozen=True)
class BenchmarkTarget:
    """A model to time."""

    run_batch: Callable[[Sequence[EncodedInput]], Any]
    """Runs one batch; returns when the outputs are on the host."""
    torch: TorchSetup | None = None
    """Of a baseline; None for a variant."""
    precision: Precision = "fp32"
    device: Device = "cpu"
    streams: int = 1
    """Batches that it runs at the same time."""
    limits: tuple[BatchLimits, ...] = (BatchLimits(),)
    """Batch limits to try first, in ascending order."""
    is_student: bool = False
    """Whether it is a model with fewer layers."""

    @classmethod
    def of_runner(
        cls, runner: ModelRunner, device: Device, precision: Precision, *, is_student: bool = False
    ) -> "BenchmarkTarget":
        """Return a variant as it serves; only an encoder that runs several rows a batch has a choice of limits."""
        has_choice = runner.supports_streams and not runner.single_row_batches
        limits = candidate_limits(runner.limits, device) if has_choice else (runner.limits,)
        return cls(
            runner.run_batch,
            precision=precision,
            device=device,
            streams=runner.streams,
            limits=limits,
            is_student=is_student,
        )

    def with_limits(self, limits: BatchLimits) -> "BenchmarkTarget":
        """Return the same target with the only batch limits that it is timed with."""
        return replace(self, limits=(limits,))

    @classmethod
    def of_torch(cls, model: TorchModel, *, has_batch_choice: bool) -> "BenchmarkTarget":
        """Return a baseline, which has the same choice of limits as the variants of its device."""
        setup = model.setup
        limits = candidate_limits(BatchLimits(), setup.device) if has_batch_choice else (BatchLimits(),)
        return cls(model.run_batch, setup, setup.precision, setup.device, limits=limits)


@dataclass(frozen=True)
class BenchmarkResult:
    """The timing of a target, the padded tokens of its fastest batches, and the samples behind its figures."""

    timing: Timing
    max_batch_tokens: int
    turns_s: tuple[float, ...] = ()
    """Seconds of each turn; the turns of all targets of a benchmark ran the same rows."""
    latencies_ms: tuple[float, ...] = ()
    """Of each single row; all targets ran the same."""

    def speed_over(self, other: "BenchmarkResult") -> Interval:
        """Return how many times the throughput of another target of the same benchmark this one has."""
        if self.turns_s and len(self.turns_s) == len(other.turns_s):
            return ratio_interval(other.turns_s, self.turns_s)
        ratio = self.timing.texts_per_s / other.timing.texts_per_s
        return ratio, ratio

    def quickness_over(self, other: "BenchmarkResult") -> Interval:
        """Return how many times shorter its median latency is than another target's of the same benchmark."""
        if self.latencies_ms and len(self.latencies_ms) == len(other.latencies_ms):
            return ratio_interval(other.latencies_ms, self.latencies_ms)
        ratio = other.timing.latency_ms_p50 / self.timing.latency_ms_p50
        return ratio, ratio


_APPROXIMATION: dict[Precision, int] = {"fp32": 0, "bf16": 1, "fp16": 1, "int8": 2, "int4": 3}


def distance(precision: Precision, *, is_student: bool) -> tuple[bool, int]:
    """Return how far a variant is from the model as it was trained; a student is further than any precision."""
    return is_student, _APPROXIMATION[precision]


def enough_rows(rows: Sequence[EncodedInput], device: Device) -> list[EncodedInput]:
    """Repeat rows until they fill the largest batch of a GPU twice; on a CPU one pass over them is enough."""
    if device == "cpu" or not rows:
        return list(rows)
    tokens = sum(len(row) for row in rows)
    return list(rows) * max(1, math.ceil(2 * BATCH_TOKENS[device][-1] / tokens))


def choose_limits(
    name: str, target: BenchmarkTarget, rows: Sequence[EncodedInput], progress: Callable[[str], object]
) -> BatchLimits:
    """Return the best batch limits of a target that is open alone."""
    progress(f"choosing the batch size of {name}")
    worker = Worker(target.run_batch, target.streams, MIN_SECONDS[target.device])
    try:
        return best_limits(worker, target.limits, rows, target.device)
    finally:
        worker.close()


def benchmark(
    targets: Mapping[str, BenchmarkTarget],
    rows: Sequence[EncodedInput],
    *,
    precision: float = PRECISION,
    max_seconds: float = MAX_SECONDS,
    rounds: int | None = None,
    singles: int = 100,
    meter: GpuMeter | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, BenchmarkResult]:
    """Time every target on rows, one row at a time and in batches of its best size.

    Targets take turns, each over a few batches of the same rows, until the confidence interval of every speed-up is at
    most `precision` wide to either side, as a share, or for `max_seconds` a target, or `rounds` passes over the rows.
    The limit of time is `PATIENCE` times as high while the fastest variant and a simpler one cannot be told apart.
    Throughput is the median of the turns; latencies are percentiles over `singles` rows that ran alone. `speed_up` is
    relative to the fastest baseline among the targets that has the precision class of the target. `meter` measures the
    GPU, afterwards.
    """
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, target in targets.items():
            workers[name] = Worker(target.run_batch, target.streams, MIN_SECONDS[target.device])
            stack.callback(workers[name].close)
        limits = {}
        for name, target in targets.items():
            progress(f"choosing the batch size of {name}")
            with (meter or GpuMeter()).measure(name, only_memory=True):
                limits[name] = best_limits(workers[name], target.limits, rows, target.device)
        parts = split_rows(rows, _turn_tokens(targets, limits))
        batches = {name: [pack(part, limits[name]) for part in parts] for name in targets}
        stop = Stop(
            is_precise=lambda seconds: _width(targets, seconds) <= precision and is_decided(targets, seconds),
            is_decided=lambda seconds: is_decided(targets, seconds),
            patience=PATIENCE if rounds is None else 1,
            min_turns=MIN_TURNS,
            enough_turns=ENOUGH_TURNS,
            max_turns=MAX_TURNS if rounds is None else min(MAX_TURNS, rounds * len(parts)),
            max_seconds=max_seconds * len(targets),
        )
        seconds = time_turns(workers, batches, stop, progress)
        progress("timing single inputs")
        single_rows = _spread(rows, min(singles, len(rows)) if rounds else singles)
        latencies_ms = time_single_rows(
            workers, single_rows, enough=ENOUGH_SINGLES, max_seconds=max_seconds * len(targets) / 2
        )
        if meter and meter.has_gpu:
            _meter_gpu(meter, workers, rows, limits)
    return _results(targets, rows, parts, limits, seconds, latencies_ms, precision)


def _turn_tokens(targets: Mapping[str, BenchmarkTarget], limits: Mapping[str, BatchLimits]) -> int:
    return max(
        BATCHES_PER_TURN[target.device] * target.streams * limits[name].tokens for name, target in targets.items()
    )


def _width(targets: Mapping[str, BenchmarkTarget], seconds: Mapping[str, list[float]]) -> float:
    """Return half the width of the widest interval of a speed-up."""
    against = _baselines(targets, {name: 1 / float(np.median(each)) for name, each in seconds.items()})
    return max(half_width(ratio_interval(seconds[against[name]], seconds[name])) for name in targets)


def is_decided(targets: Mapping[str, BenchmarkTarget], seconds: Mapping[str, list[float]]) -> bool:
    """Tell whether the fastest variant is proven faster than every simpler one, or proven to be no more than a tie."""
    variants = [name for name, target in targets.items() if target.torch is None]
    if not variants:
        return True
    best = min(variants, key=lambda name: np.median(seconds[name]))
    distances = {name: distance(targets[name].precision, is_student=targets[name].is_student) for name in variants}
    simpler = [name for name in variants if distances[name] < distances[best]]
    intervals = [ratio_interval(seconds[name], seconds[best]) for name in simpler]
    return all(low > 1 or high <= TIE for low, high in intervals)


def _baselines(targets: Mapping[str, BenchmarkTarget], speeds: Mapping[str, float]) -> dict[str, str]:
    """Return the baseline of each target: a torch model or, where there is none, the first target."""
    baselines = {name: target.torch for name, target in targets.items() if target.torch}
    if not baselines:
        return dict.fromkeys(targets, next(iter(targets)))
    return {name: choose_baseline(target.precision, baselines, speeds) for name, target in targets.items()}


def _meter_gpu(
    meter: GpuMeter, workers: Mapping[str, Worker], rows: Sequence[EncodedInput], limits: Mapping[str, BatchLimits]
) -> None:
    for name, worker in workers.items():
        batches = pack(rows, limits[name])
        with meter.measure(name) as usage:
            started = time.perf_counter()
            while time.perf_counter() - started < METERED_SECONDS:
                worker.run(batches)
                usage.texts += len(rows)


def _results(
    targets: Mapping[str, BenchmarkTarget],
    rows: Sequence[EncodedInput],
    parts: Sequence[Sequence[EncodedInput]],
    limits: Mapping[str, BatchLimits],
    seconds: Mapping[str, list[float]],
    latencies_ms: Mapping[str, list[float]],
    precision: float,
) -> dict[str, BenchmarkResult]:
    """Return figures and intervals of each target."""
    # The parts have almost the same number of rows; rates make up for the rest.
    sizes = [len(parts[turn % len(parts)]) for turn in range(len(next(iter(seconds.values()))))]
    rates = {name: [size / each for size, each in zip(sizes, turns, strict=True)] for name, turns in seconds.items()}
    speeds = {name: float(np.median(each)) for name, each in rates.items()}
    against, tokens = _baselines(targets, speeds), sum(map(len, rows)) / len(rows)
    results = {}
    for name in targets:
        baseline, samples = against[name], latencies_ms[name]
        speed_up = ratio_interval(rates[name], rates[baseline])
        timing = Timing(
            texts=len(rows),
            latency_ms_p50=round(float(np.median(samples)), 3),
            latency_ms_p95=_rounded(percentile(samples, 95)),
            latency_ms_p99=_rounded(percentile(samples, 99)),
            latency_ms_p999=_rounded(percentile(samples, 99.9)),
            latency_ms_quantiles=quantiles(samples),
            latency_ms_p50_interval=_significant(median_interval(samples)),
            texts_per_s=round(speeds[name], 1),
            texts_per_s_interval=_significant(median_interval(rates[name])),
            tokens_per_s=round(speeds[name] * tokens, 1),
            speed_up=round(speeds[name] / speeds[baseline], 3),
            speed_up_interval=_significant(speed_up),
            baseline=baseline,
            is_noisy=half_width(speed_up) > precision,
        )
        turns_s = tuple(1 / rate for rate in rates[name])
        results[name] = BenchmarkResult(timing, limits[name].tokens, turns_s, tuple(samples))
    return results


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _significant(interval: Interval) -> Interval:
    low, high = (float(f"{value:.4g}") for value in interval)
    return low, high


def _spread(rows: Sequence[EncodedInput], count: int) -> list[EncodedInput]:
    """Choose `count` rows, evenly spaced and in their order, so that lengths are mixed as in the data.

    Rows are repeated if there are fewer.
    """
    repeated = list(rows) * math.ceil(count / len(rows))
    return [repeated[i] for i in np.linspace(0, len(repeated) - 1, count, dtype=int)]
