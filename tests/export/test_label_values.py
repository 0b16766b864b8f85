"""A class is found by its name, by its number in another notation, by its index, and as true or false."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuneport.stages.export.tasks.text_classification import Task


def index_of(label: Any, labels: tuple[str, ...], *, has_run: bool = False) -> int:
    """Return the target of a row for a checkpoint with these labels, from elsewhere or of a run."""
    checkpoint: Any = SimpleNamespace(
        facts=SimpleNamespace(problem_type=None), labels=labels, folder=Path("x"), run=object() if has_run else None,
        accepts_pairs=False, may_be_reranker=False, task="text-classification",
    )  # fmt: skip
    return Task(checkpoint).read_target({"text": "a text", "label": label})[0]


@pytest.mark.parametrize(
    ("label", "labels", "index"),
    [
        ("odd", ("calm", "odd"), 1),
        (1, ("LABEL_0", "LABEL_1"), 1),
        ("True", ("LABEL_0", "LABEL_1"), 1),
        ("False", ("NEGATIVE", "POSITIVE"), 0),
        ("True", ("true", "false"), 0),
        (2, ("1.0", "2.0", "3.0"), 1),
        (1, ("1", "0"), 0),
        (-1, ("-1", "+1"), 0),
    ],
)
def test_the_class_of_a_label(label: Any, labels: tuple[str, ...], index: int) -> None:
    assert index_of(label, labels) == index


def test_a_run_has_the_names_of_its_own_data() -> None:
    assert index_of(2, ("1.0", "2.0"), has_run=True) == 1
    with pytest.raises(ValueError, match="label 1 is not one of the model's"):
        index_of(1, ("calm", "odd"), has_run=True)


@pytest.mark.parametrize(("label", "labels"), [("True", ("a", "b", "c")), (3, ("1.0", "2.0")), (2, ("a", "b"))])
def test_what_no_class_is_meant_by_is_refused(label: Any, labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="is not one of the model's"):
        index_of(label, labels)
