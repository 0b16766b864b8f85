"""Metrics of predicted numbers."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import pearsonr, spearmanr

Numbers = npt.NDArray[np.float64]


def regression_metrics(predicted: Numbers, expected: Numbers) -> dict[str, float]:
    """Compute errors and correlations of (rows, targets): the mean over targets."""
    errors = np.abs(predicted - expected)
    return {
        "mse": float((errors**2).mean()),
        "mae": float(errors.mean()),
        "pearson": pearson(predicted, expected),
        "spearman": _mean_correlation(spearmanr, predicted, expected),
    }


def pearson(predicted: Numbers, expected: Numbers) -> float:
    """Compute Pearson's correlation of (rows, targets): the mean over targets."""
    return _mean_correlation(pearsonr, predicted, expected)


def _mean_correlation(correlate: Any, predicted: Numbers, expected: Numbers) -> float:
    """Average the correlations of all targets; that of constant values, which is undefined, counts as 0."""
    columns = zip(predicted.T, expected.T, strict=True)
    return float(np.mean([_correlation(correlate, *column) for column in columns]))


def _correlation(correlate: Any, predicted: Numbers, expected: Numbers) -> float:
    if len(expected) < 2 or np.ptp(predicted) == 0 or np.ptp(expected) == 0:
        return 0.0
    return float(correlate(predicted, expected).statistic)
