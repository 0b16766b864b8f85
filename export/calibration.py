"""Probabilities against frequencies: expected calibration error, and the temperature that mends it.

After Guo et al., "On Calibration of Modern Neural Networks" (2017).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from export.manifest import Calibration
from serve.tasks.text_classification import softmax

BINS = 15
FEWEST_ROWS = 100
"""With fewer a temperature is noise."""
Logits = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int64]


def calibrate(logits: Logits, targets: Targets) -> Calibration | None:
    """Fit a temperature on logits (rows, labels) and true labels (rows,); None for too few rows.

    The errors before and after are of rows that the temperature was not fitted on: each half judges the other's.
    """
    if len(targets) < FEWEST_ROWS:
        return None
    halves = np.arange(len(targets)) % 2 == 0
    cooled = np.empty_like(logits)
    for half in (halves, ~halves):
        cooled[~half] = logits[~half] / fit_temperature(logits[half], targets[half])
    return Calibration(
        error_before=round(calibration_error(logits, targets), 4),
        error_after=round(calibration_error(cooled, targets), 4),
        temperature=round(fit_temperature(logits, targets), 4),
    )


def fit_temperature(logits: Logits, targets: Targets) -> float:
    """Return the temperature with the least negative log-likelihood, within 0.05 and 20."""

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        top = scaled.max(-1)
        log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(-1))
        return float(np.mean(log_sum - scaled[np.arange(len(targets)), targets]))

    found: Any = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def calibration_error(logits: Logits, targets: Targets) -> float:
    """Return the mean distance of confidence from accuracy over `BINS` equal bins of confidence, by their rows."""
    probabilities = softmax(logits)
    confidence = probabilities.max(-1)
    right = probabilities.argmax(-1) == targets
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(right[bins == i].mean() - confidence[bins == i].mean()) * (bins == i).mean() for i in set(bins)]
    return float(sum(gaps))
