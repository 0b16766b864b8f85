"""The report draws and scores labels of every kind."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from tuneport.metrics.classification import score_classes, score_multilabel
from tuneport.stages.finetune.pictures import draw_confusion

LABELS = ("accuracy", "macro avg", "weighted avg", "plain")


def test_a_class_may_be_called_like_a_row_of_sklearns_report() -> None:
    targets, predicted = np.array([0, 1, 2, 3, 0]), np.array([0, 1, 2, 0, 0])
    _, classes, _ = score_classes(predicted, targets, LABELS)
    assert [(each.label, each.support, each.recall) for each in classes] == [
        ("accuracy", 2, 1.0), ("macro avg", 1, 1.0), ("weighted avg", 1, 1.0), ("plain", 1, 0.0),
    ]  # fmt: skip
    _, several = score_multilabel(np.eye(4, dtype=int), np.eye(4, dtype=int), LABELS)
    assert [each.f1 for each in several] == [1.0] * 4


@pytest.mark.parametrize("labels", [("$10_$20", "$0_$10"), ("体育", "новости"), ("\\alpha$", "a\nb")])
def test_labels_are_drawn_as_they_are(tmp_path: Path, labels: tuple[str, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(tmp_path / "x.png", np.eye(2), labels, "test")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_a_split_of_one_class_is_scored_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics, _, _ = score_classes(np.zeros(3, int), np.zeros(3, int), LABELS)
    assert metrics["matthews"] == 0.0
