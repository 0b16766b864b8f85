"""From samples to figures: throughput, latency and speed-up of each target, with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tuneport.runtime.batch import EncodedInput
from tuneport.schema.artifact import Interval, Precision, Timing
from tuneport.schema.torch_setup import TorchSetup

from .baselines import choose_baseline
from .intervals import Samples, half_width, percentile, quantiles
from .target import BenchmarkTarget


@dataclass(frozen=True)
class Measured:
    """What was measured of one target beside the others of its group."""

    torch: TorchSetup | None
    """Of a baseline; None for a variant."""
    precision: Precision
    max_batch_tokens: int
    """Padded tokens of its fastest batches."""
    seconds: Samples
    """Of each turn, divided by its rows; the turns of all targets of a group ran the same rows."""
    latencies_ms: Samples
    """Of each single row; all targets of a group ran the same."""

    def rescaled(self, anchor_here: "Measured", anchor_in_first: "Measured") -> "Measured":
        """Return what would have been measured in the first group: self x anchor_in_first / anchor_here.

        The anchor is a target of both groups.
        """
        return replace(
            self,
            seconds=self.seconds.rescaled(anchor_here.seconds, anchor_in_first.seconds),
            latencies_ms=self.latencies_ms.rescaled(anchor_here.latencies_ms, anchor_in_first.latencies_ms),
        )


@dataclass(frozen=True)
class BenchmarkResult:
    """The timing of a target, the padded tokens of its fastest batches, and the samples behind its figures."""

    timing: Timing
    max_batch_tokens: int
    seconds: Samples | None = None
    """As in `Measured`; None, as of the latencies, for a result that was read from a file."""
    latencies_ms: Samples | None = None

    def speed_over(self, other: "BenchmarkResult") -> Interval:
        """Return how many times the throughput of another target of the same benchmark this one has."""
        if self.seconds and other.seconds:
            return other.seconds.over(self.seconds)
        ratio = self.timing.texts_per_s / other.timing.texts_per_s
        return ratio, ratio

    def quickness_over(self, other: "BenchmarkResult") -> Interval:
        """Return how many times shorter its median latency is than another target's of the same benchmark."""
        if self.latencies_ms and other.latencies_ms:
            return other.latencies_ms.over(self.latencies_ms)
        ratio = other.timing.latency_ms_p50 / self.timing.latency_ms_p50
        return ratio, ratio


def to_results(
    measured: Mapping[str, Measured], rows: Sequence[EncodedInput], precision: float
) -> dict[str, BenchmarkResult]:
    """Return figures and intervals of each target; speed-ups wider than `precision` to either side are called noisy."""
    speeds = {name: 1 / each.seconds.median for name, each in measured.items()}
    against = baselines_of(measured, speeds)
    tokens = sum(map(len, rows)) / len(rows)
    results = {}
    for name, each in measured.items():
        baseline, latencies = against[name], each.latencies_ms
        speed_up = measured[baseline].seconds.over(each.seconds)
        least, most = each.seconds.interval
        timing = Timing(
            texts=len(rows),
            latency_ms_p50=round(latencies.median, 3),
            latency_ms_p95=_rounded(percentile(latencies.values, 95)),
            latency_ms_p99=_rounded(percentile(latencies.values, 99)),
            latency_ms_p999=_rounded(percentile(latencies.values, 99.9)),
            latency_ms_quantiles=quantiles(latencies.values),
            latency_ms_p50_interval=_significant(latencies.interval),
            texts_per_s=_rate(speeds[name]),
            texts_per_s_interval=_significant((1 / most, 1 / least)),
            tokens_per_s=_rate(speeds[name] * tokens),
            speed_up=round(speeds[name] / speeds[baseline], 3),
            speed_up_interval=_significant(speed_up),
            baseline=baseline,
            is_noisy=half_width(speed_up) > precision,
        )
        results[name] = BenchmarkResult(timing, each.max_batch_tokens, each.seconds, latencies)
    return results


def baselines_of(
    targets: Mapping[str, Measured] | Mapping[str, BenchmarkTarget], speeds: Mapping[str, float]
) -> dict[str, str]:
    """Return the baseline of each target: a torch model or, where there is none, the first target."""
    baselines = {name: target.torch for name, target in targets.items() if target.torch}
    if not baselines:
        return dict.fromkeys(targets, next(iter(targets)))
    return {name: choose_baseline(target.precision, baselines, speeds) for name, target in targets.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _rate(value: float) -> float:
    """Return a rate with one decimal, or four digits if it is low: it may be a divisor."""
    return round(value, 1) if value >= 100 else float(f"{value:.4g}")


def _significant(interval: Interval) -> Interval:
    low, high = (float(f"{value:.4g}") for value in interval)
    return low, high
