"""Time models side by side on the same rows, in turns, until the intervals of their speed-ups are narrow enough."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tuneport.gpu import GpuMeter
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.scheduler import BATCH_TOKENS, BatchLimits
from tuneport.schema.artifact import Device, Execution

from .batch_size import best_limits
from .intervals import Samples, half_width, ratio_interval
from .results import BenchmarkResult, Measured, baselines_of, to_results
from .target import BenchmarkTarget, distance
from .turns import Stop, TargetRunner, pack, split_rows, time_single_rows, time_turns

MIN_SECONDS: dict[Device, float] = {"cpu": 0.0, "cuda": 0.02, "tensorrt": 0.02}
"""A turn lasts at least so long: a GPU needs a millisecond for a batch, and a single hiccup would count as much."""
METERED_SECONDS = 0.5
"""A GPU's counters of energy and utilization see no less than a few tenths of a second."""
BATCHES_PER_TURN: dict[Device, int] = {"cpu": 2, "cuda": 1, "tensorrt": 1}
"""Of the largest size that any target has, and for each of its streams."""
SINGLE_ROW_TOKENS = 512
"""Counted as a batch of a target that runs rows one at a time: a turn of a few rows would leave streams idle."""
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
    runner = TargetRunner(target.run_batch, target.streams, MIN_SECONDS[target.device])
    try:
        return best_limits(runner, target.limits, rows, target.device)
    finally:
        runner.close()


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
    measured = measure(
        targets,
        rows,
        precision=precision,
        max_seconds=max_seconds,
        rounds=rounds,
        singles=singles,
        meter=meter,
        progress=progress,
    )
    return to_results(measured, rows, precision)


def measure(
    targets: Mapping[str, BenchmarkTarget],
    rows: Sequence[EncodedInput],
    *,
    precision: float = PRECISION,
    max_seconds: float = MAX_SECONDS,
    rounds: int | None = None,
    singles: int = 100,
    group: int = 0,
    turn_tokens: int | None = None,
    meter: GpuMeter | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Measured]:
    """Take the samples of `benchmark`. Those of another `group` are resampled independently.

    A turn has at least `turn_tokens` tokens, by default as many as the targets need. Groups that are compared must have
    turns of one size: batches are packed of the rows of a turn, and the fewer these are the more padding they need.
    """
    with contextlib.ExitStack() as stack:
        runners = {}
        for name, target in targets.items():
            runners[name] = TargetRunner(target.run_batch, target.streams, MIN_SECONDS[target.device])
            stack.callback(runners[name].close)
        limits = {}
        for name, target in targets.items():
            progress(f"choosing the batch size of {name}")
            with (meter or GpuMeter()).measure(name, only_memory=True):
                limits[name] = best_limits(runners[name], target.limits, rows, target.device)
        parts = split_rows(rows, turn_tokens or max(tokens_needed(targets[name], limits[name]) for name in targets))
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
        seconds = time_turns(runners, batches, stop, progress)
        progress("timing single inputs")
        single_rows = _spread(rows, min(singles, len(rows)) if rounds else singles)
        latencies_ms = time_single_rows(
            runners, single_rows, enough=ENOUGH_SINGLES, max_seconds=max_seconds * len(targets) / 2
        )
        if meter and meter.has_gpu:
            _meter_gpu(meter, runners, rows, limits)
    # The parts have almost the same number of rows; seconds a row make up for the rest.
    sizes = [len(parts[turn % len(parts)]) for turn in range(len(next(iter(seconds.values()))))]
    return {
        name: Measured(
            torch=target.torch,
            precision=target.precision,
            max_batch_tokens=limits[name].tokens,
            seconds=Samples.of([each / size for each, size in zip(seconds[name], sizes, strict=True)], group),
            latencies_ms=Samples.of(latencies_ms[name], group),
        )
        for name, target in targets.items()
    }


def tokens_needed(target: BenchmarkTarget | Execution, limits: BatchLimits) -> int:
    """Return the fewest tokens of a turn that keep all streams of a target busy."""
    tokens = SINGLE_ROW_TOKENS if limits.runs_rows_alone else limits.tokens
    return BATCHES_PER_TURN[target.device] * target.streams * tokens


def _width(targets: Mapping[str, BenchmarkTarget], seconds: Mapping[str, list[float]]) -> float:
    """Return half the width of the widest interval of a speed-up."""
    against = baselines_of(targets, {name: 1 / float(np.median(each)) for name, each in seconds.items()})
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


def _meter_gpu(
    meter: GpuMeter,
    runners: Mapping[str, TargetRunner],
    rows: Sequence[EncodedInput],
    limits: Mapping[str, BatchLimits],
) -> None:
    for name, runner in runners.items():
        batches = pack(rows, limits[name])
        with meter.measure(name) as usage:
            started = time.perf_counter()
            while time.perf_counter() - started < METERED_SECONDS:
                runner.run(batches)
                usage.texts += len(rows)


def _spread(rows: Sequence[EncodedInput], count: int) -> list[EncodedInput]:
    """Choose `count` rows, evenly spaced and in their order, so that lengths are mixed as in the data.

    Rows are repeated if there are fewer.
    """
    repeated = list(rows) * math.ceil(count / len(rows))
    return [repeated[i] for i in np.linspace(0, len(repeated) - 1, count, dtype=int)]
