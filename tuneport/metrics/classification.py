"""Metrics of predicted classes, for inputs with one label and with several."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from tuneport.schema.base import Frozen


class ClassScore(Frozen):
    """One class of a per-class report."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def score_classes(
    predicted: npt.NDArray[Any], targets: npt.NDArray[Any], labels: tuple[str, ...]
) -> tuple[dict[str, float], tuple[ClassScore, ...], tuple[tuple[int, ...], ...]]:
    """Compute metrics, the scores of each class and the confusion matrix for inputs with one label.

    Both arrays are indices into `labels`, int64 of shape (rows,); the matrix has a row for each target.
    """
    metrics = {
        "accuracy": float(accuracy_score(targets, predicted)),
        "f1_macro": float(f1_score(targets, predicted, average="macro", zero_division=0)),
        "f1_weighted": float(f1_score(targets, predicted, average="weighted", zero_division=0)),
        # It is 0 for a single class, of which sklearn warns.
        "matthews": float(matthews_corrcoef(targets, predicted)) if len(np.union1d(targets, predicted)) > 1 else 0.0,
    }
    matrix = confusion_matrix(targets, predicted, labels=range(len(labels)))
    return metrics, class_scores(targets, predicted, labels), tuple(tuple(int(n) for n in row) for row in matrix)


def score_multilabel(
    predicted: npt.NDArray[Any], targets: npt.NDArray[Any], labels: tuple[str, ...]
) -> tuple[dict[str, float], tuple[ClassScore, ...]]:
    """Compute metrics and the scores of each class for inputs with several labels; both arrays are 0/1, (rows, labels).

    Accuracy is the share of inputs with all labels right.
    """
    metrics = {
        "accuracy": float(accuracy_score(targets, predicted)),
        "f1_macro": float(f1_score(targets, predicted, average="macro", zero_division=0)),
        "f1_micro": float(f1_score(targets, predicted, average="micro", zero_division=0)),
        "f1_weighted": float(f1_score(targets, predicted, average="weighted", zero_division=0)),
        "hamming_loss": float(np.mean(predicted != targets)),
    }
    return metrics, class_scores(targets, predicted, labels)


def class_scores(
    targets: npt.NDArray[Any], predicted: npt.NDArray[Any], labels: tuple[str, ...]
) -> tuple[ClassScore, ...]:
    """Compute precision, recall, F1 and support of each class."""
    # Not by sklearn's classification_report: a label may be named like one of its own rows, such as "accuracy".
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
