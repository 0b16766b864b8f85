"""Errors and correlations of predicted numbers have the values of their definitions."""

import numpy as np
import pytest

from tuneport.metrics.regression import regression_metrics


def test_errors_and_correlations_of_one_number() -> None:
    predicted, expected = np.array([[1.0], [2.0], [3.0], [10.0]]), np.array([[2.0], [2.0], [5.0], [6.0]])
    metrics = regression_metrics(predicted, expected)
    assert metrics["mse"] == pytest.approx((1 + 0 + 4 + 16) / 4)
    assert metrics["mae"] == pytest.approx((1 + 0 + 2 + 4) / 4)
    assert metrics["pearson"] == pytest.approx(21 / np.sqrt(50 * 12.75))  # sums of deviations from 4 and 3.75
    assert metrics["spearman"] == pytest.approx(4.5 / np.sqrt(5 * 4.5))  # ranks 1 2 3 4 and 1.5 1.5 3 4


def test_several_numbers_count_alike() -> None:
    predicted, expected = np.array([[0.0, 10.0], [2.0, 30.0]]), np.array([[1.0, 10.0], [1.0, 10.0]])
    metrics = regression_metrics(predicted, expected)
    assert metrics["mse"] == pytest.approx((1 + 0 + 1 + 400) / 4)
    assert metrics["mae"] == pytest.approx((1 + 0 + 1 + 20) / 4)
    assert metrics["pearson"] == 0.0  # undefined for constant targets
