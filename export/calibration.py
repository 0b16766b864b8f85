"""Measure the expected calibration error of probabilities and fit the temperature that reduces it.

Method: Guo et al., "On Calibration of Modern Neural Networks" (2017).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from tuneport.runtime.tasks.text_classification import softmax
from tuneport.schema.artifact import Calibration

BINS = 15
"""Bins of equal width over the confidence."""
MIN_ROWS = 100
"""On fewer rows the fitted temperature is mostly noise."""
Logits = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int64]


def calibrate(logits: Logits, targets: Targets) -> Calibration | None:
    """Fit a temperature on logits (rows, labels) and true labels (rows,); None for fewer than `MIN_ROWS` rows.

    `error_after` is cross-validated: each half of the rows is scaled by the temperature fitted on the other half.
    """
    if len(targets) < MIN_ROWS:
        return None
    is_even = np.arange(len(targets)) % 2 == 0
    scaled = np.empty_like(logits)
    for half in (is_even, ~is_even):
        scaled[~half] = logits[~half] / fit_temperature(logits[half], targets[half])
    return Calibration(
        error_before=round(calibration_error(logits, targets), 4),
        error_after=round(calibration_error(scaled, targets), 4),
        temperature=round(fit_temperature(logits, targets), 4),
    )


def fit_temperature(logits: Logits, targets: Targets) -> float:
    """Return the temperature between 0.05 and 20 that minimizes the negative log-likelihood."""

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        top = scaled.max(-1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(-1))
        return float(np.mean(log_sum - scaled[np.arange(len(targets)), targets]))

    optimum: Any = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(optimum.x))


def calibration_error(logits: Logits, targets: Targets) -> float:
    """Return the expected calibration error: |accuracy - confidence| of each bin, weighted by its share of rows."""
    probabilities = softmax(logits)
    confidence = probabilities.max(-1)
    is_correct = probabilities.argmax(-1) == targets
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(is_correct[bins == i].mean() - confidence[bins == i].mean()) * (bins == i).mean() for i in set(bins)]
    return float(sum(gaps))
