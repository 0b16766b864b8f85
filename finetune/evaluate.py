"""The result of an evaluation: metrics for run.json, and details for the report."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tuneport.metrics.classification import ClassScore
from tuneport.schema.base import Frozen

MAX_MISTAKES = 20


class Mistake(Frozen):
    """A row whose prediction is wrong, or of regression and generation far from its target."""

    row: int
    """From 1: in the split, as a task returns it; in the split's file, as `evaluate` of `setup` returns it."""
    input: str
    expected: str
    predicted: str
    loss: float
    """How wrong the prediction is, in a unit of the task; larger is worse."""


class Evaluation(Frozen):
    """Metrics of a split, with details where the task has them."""

    metrics: dict[str, float]
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    """Rows are true labels, columns predictions, in the order of the task's labels."""
    mistakes: tuple[Mistake, ...] = Field(default=(), max_length=MAX_MISTAKES)


def largest_losses(losses: npt.NDArray[np.floating[Any]], is_wrong: npt.NDArray[np.bool_]) -> list[int]:
    """Return the positions of the wrong rows, `MAX_MISTAKES` at most, largest loss first; both arrays are (rows,)."""
    order = np.argsort(-losses, kind="stable")
    return [int(i) for i in order if is_wrong[i]][:MAX_MISTAKES]


def worst_mistakes(
    inputs: Sequence[str], expected: Sequence[str], predicted: Sequence[str], losses: npt.NDArray[np.floating[Any]]
) -> tuple[Mistake, ...]:
    """Describe the rows with the largest losses above 0; losses are (rows,)."""
    return tuple(
        Mistake(row=i + 1, input=inputs[i], expected=expected[i], predicted=predicted[i], loss=float(losses[i]))
        for i in largest_losses(losses, losses > 0)
    )
