"""Confidence intervals of medians, and of ratios of two medians, by bootstrap (Efron, 1979)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuneport.schema.artifact import Interval

RESAMPLES = 1000
LEVEL = 95
"""Percent of the resamples that lie within an interval."""
SEED = 17
MIN_SAMPLES = {50: 1, 95: 20, 99: 100, 99.9: 1000}
"""Percentile → fewest samples of which at least one is expected beyond it; with fewer it is withheld."""


@dataclass(frozen=True)
class Samples:
    """Measurements of one target, all greater than 0, with the medians of their resamples."""

    values: tuple[float, ...]
    medians: tuple[float, ...]
    """Of RESAMPLES resamples. Those of targets that were measured side by side are paired: see `ratio_interval`."""

    @classmethod
    def of(cls, values: Sequence[float], group: int = 0) -> "Samples":
        """Resample values. Targets of one `group` were measured side by side, those of two groups independently."""
        return cls(tuple(map(float, values)), tuple(resampled_medians(values, group).tolist()))

    @property
    def median(self) -> float:
        """Return the median of the values."""
        return float(np.median(self.values))

    @property
    def interval(self) -> Interval:
        """Return the confidence interval of the median."""
        return _interval(np.asarray(self.medians))

    def over(self, other: "Samples") -> Interval:
        """Return the confidence interval of this median as a multiple of another one."""
        return _interval(np.asarray(self.medians) / np.asarray(other.medians))

    def rescaled(self, anchor_here: "Samples", anchor_in_first: "Samples") -> "Samples":
        """Return what would have been measured in the first group: self x anchor_in_first / anchor_here.

        The anchor is a target that was measured in the group of these samples and in the first one, too. The
        uncertainty of both is in the resampled medians.
        """
        factor = anchor_in_first.median / anchor_here.median
        medians = np.asarray(self.medians) * np.asarray(anchor_in_first.medians) / np.asarray(anchor_here.medians)
        return Samples(tuple(factor * value for value in self.values), tuple(medians.tolist()))


def median_interval(values: Sequence[float]) -> Interval:
    """Return the confidence interval of a median."""
    return _interval(resampled_medians(values))


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Return the confidence interval of the ratio of two medians.

    The samples are paired: those of one index were taken one right after the other, so that what slowed the host then
    slowed both. Resamples keep the pairs.
    """
    return _interval(resampled_medians(numerators) / resampled_medians(denominators))


def half_width(interval: Interval) -> float:
    """Return half of an interval's width, as a share of its middle."""
    low, high = interval
    return (high - low) / (high + low)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile; None if there are too few samples for it."""
    if len(values) < MIN_SAMPLES[percent]:
        return None
    return float(np.percentile(values, percent))


def quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Return the values below which 0, 5, 10, … 100 % of the samples are."""
    return tuple(round(float(value), 3) for value in np.percentile(values, range(0, 101, 5)))


def resampled_medians(values: Sequence[float], group: int = 0) -> np.ndarray:
    """Return the median of each resample, float64 (RESAMPLES,); equally many values of a group are resampled alike."""
    indices = np.random.default_rng(SEED + group).integers(len(values), size=(RESAMPLES, len(values)))
    return np.median(np.asarray(values, np.float64)[indices], axis=1)


def _interval(estimates: np.ndarray) -> Interval:
    low, high = np.percentile(estimates, ((100 - LEVEL) / 2, (100 + LEVEL) / 2))
    return float(low), float(high)
