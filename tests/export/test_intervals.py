"""Confidence intervals, with samples whose true median is known."""

import numpy as np
import pytest

from tuneport.stages.export.intervals import half_width, median_interval, percentile, ratio_interval


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    chance = np.random.default_rng(1)
    samples = [chance.lognormal(0.0, 0.3, 12) for _ in range(200)]  # its median is 1
    covered = [low <= 1 <= high for low, high in map(median_interval, samples)]
    assert 0.88 < np.mean(covered) <= 1


def test_what_slows_both_targets_does_not_widen_the_interval_of_their_ratio() -> None:
    chance = np.random.default_rng(2)
    slowed = chance.lognormal(0.0, 0.5, 40)  # a host whose speed varies by half
    fast, slow = slowed * chance.normal(1.0, 0.01, 40), 2 * slowed * chance.normal(1.0, 0.01, 40)
    low, high = ratio_interval(slow, fast)
    assert low <= 2.02
    assert high >= 1.98
    assert half_width((low, high)) < 0.15 * half_width(median_interval(fast)) + 0.1
    unpaired = ratio_interval(slow, fast[::-1])
    assert half_width((low, high)) < half_width(unpaired)


def test_intervals_become_narrower_with_samples_and_are_reproducible() -> None:
    samples = np.random.default_rng(3).normal(10.0, 1.0, 400)
    assert half_width(median_interval(samples)) < half_width(median_interval(samples[:20]))
    assert median_interval(samples) == median_interval(samples)
    assert median_interval([3.0] * 9) == (3.0, 3.0)


@pytest.mark.parametrize(("percent", "fewest"), [(95, 20), (99, 100), (99.9, 1000)])
def test_a_percentile_is_withheld_if_there_are_too_few_samples(percent: float, fewest: int) -> None:
    values = [float(i) for i in range(fewest)]
    assert percentile(values[1:], percent) is None
    assert percentile(values, percent) == pytest.approx(fewest * percent / 100, rel=0.06)
