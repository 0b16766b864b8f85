"""The outcome of an evaluation: figures for run.json, and what the report shows beside them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from export.machine import Frozen

WORST = 20
"""Mistakes that a report shows."""


class Mistake(Frozen):
    """A row that the model got wrong, or most wrong."""

    row: int
    """From 1: in the split, when a task has scored it; in the split's file, in what `finetune.session` returns."""
    input: str
    expected: str
    predicted: str
    loss: float
    """How wrong: larger is worse; the task says in what."""


class ClassScore(Frozen):
    """One class of a per-class report."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class Evaluation(Frozen):
    """Metrics of a split, with the details where a task has them."""

    metrics: dict[str, float]
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    """Rows are true labels, columns predictions, in the order of the task's labels."""
    mistakes: tuple[Mistake, ...] = Field(default=(), max_length=WORST)


def score_classes(
    predicted: npt.NDArray[Any], targets: npt.NDArray[Any], labels: tuple[str, ...]
) -> tuple[dict[str, float], tuple[ClassScore, ...], tuple[tuple[int, ...], ...]]:
    """Score single-label predictions: metrics, a score a class, and the confusion matrix.

    Both arrays are indices into `labels`, int64 of shape (rows,).
    """
    metrics = {
        "accuracy": float(accuracy_score(targets, predicted)),
        "f1_macro": float(f1_score(targets, predicted, average="macro", zero_division=0)),
        "f1_weighted": float(f1_score(targets, predicted, average="weighted", zero_division=0)),
        # sklearn warns of a single class, for which it is 0.
        "matthews": float(matthews_corrcoef(targets, predicted)) if len(np.union1d(targets, predicted)) > 1 else 0.0,
    }
    matrix = confusion_matrix(targets, predicted, labels=range(len(labels)))
    return metrics, class_scores(targets, predicted, labels), tuple(tuple(int(n) for n in row) for row in matrix)


def score_multilabel(
    predicted: npt.NDArray[Any], targets: npt.NDArray[Any], labels: tuple[str, ...]
) -> tuple[dict[str, float], tuple[ClassScore, ...]]:
    """Score multi-label predictions, both 0/1 of shape (rows, labels): metrics and a score a class."""
    metrics = {
        "accuracy": float(accuracy_score(targets, predicted)),  # all labels of a row right
        "f1_macro": float(f1_score(targets, predicted, average="macro", zero_division=0)),
        "f1_micro": float(f1_score(targets, predicted, average="micro", zero_division=0)),
        "f1_weighted": float(f1_score(targets, predicted, average="weighted", zero_division=0)),
        "hamming_loss": float(np.mean(predicted != targets)),
    }
    return metrics, class_scores(targets, predicted, labels)


def class_scores(
    targets: npt.NDArray[Any], predicted: npt.NDArray[Any], labels: tuple[str, ...]
) -> tuple[ClassScore, ...]:
    """Return precision, recall, F1 and support of each class."""
    # Not sklearn's report: it has rows of its own, and a class may be called "accuracy", too.
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=range(len(labels)), average=None, zero_division=0
    )
    return tuple(
        ClassScore(
            label=label,
            precision=float(precision[i]),
            recall=float(recall[i]),
            f1=float(f1[i]),
            support=int(support[i]),
        )
        for i, label in enumerate(labels)
    )


def worst(losses: npt.NDArray[np.floating[Any]], wrong: npt.NDArray[np.bool_]) -> list[int]:
    """Return the indices of at most `WORST` wrong rows, the largest loss first; losses and wrong are (rows,)."""
    order = np.argsort(-losses, kind="stable")
    return [int(i) for i in order if wrong[i]][:WORST]


def mistakes_of(
    inputs: Sequence[str], expected: Sequence[str], predicted: Sequence[str], losses: npt.NDArray[np.floating[Any]]
) -> tuple[Mistake, ...]:
    """Show the rows with the largest losses above 0; losses are (rows,)."""
    return tuple(
        Mistake(row=i + 1, input=inputs[i], expected=expected[i], predicted=predicted[i], loss=float(losses[i]))
        for i in worst(losses, losses > 0)
    )
