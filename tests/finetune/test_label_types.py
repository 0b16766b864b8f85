"""Targets of every type that data has: numbers of classes, flags, names, and the hub's class labels."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from kit.data import QUICK, write_splits

from tuneport.errors import DataError
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.setup import Prepared, prepare
from tuneport.stages.finetune.train import finetune

TEXTS = ("good film", "bad song", "late vote", "new chip")


def _prepare(base: Path, data: Path, **changes: Any) -> Prepared:
    flags = {"task": "text-classification", "model": str(base), "data": str(data)}
    return prepare(load_config(flags={**QUICK, **flags, **changes}))


def _write(folder: Path, labels: list[Any], column: str = "labels") -> Path:
    rows = [{"text": text, column: each} for text, each in zip(TEXTS, labels, strict=True)]
    return write_splits(folder, train=rows * 4, validation=rows)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([[0], [2], [0, 2], [10]], ("0", "2", "10")),
        ([["a"], ["b"], ["a", "b"], []], ("a", "b")),
        ([["a", 1], ["b"], [1], []], ("1", "a", "b")),
    ],
)
def test_lists_of_labels_become_floats_whatever_their_type(
    base: Path, tmp_path: Path, labels: Any, names: tuple[str, ...]
) -> None:
    prepared = _prepare(base, _write(tmp_path, labels))
    assert prepared.task.labels == names
    features = prepared.features["validation"]
    assert features.features["labels"].feature.dtype == "float64"
    assert features["labels"] == [[float(name in map(str, row)) for name in names] for row in labels]


@pytest.mark.parametrize("one", [1, 1.0, True])
def test_flags_are_not_taken_for_labels(base: Path, tmp_path: Path, one: Any) -> None:
    """The third class has no row in train: it is none of the model's."""
    flags = [[one, 0 * one, 0 * one], [0 * one, one, 0 * one], [one, one, 0 * one], [0 * one, 0 * one, 0 * one]]
    prepared = _prepare(base, _write(tmp_path, flags))
    assert prepared.task.labels == ("0", "1")
    assert prepared.features["validation"]["labels"] == [[1, 0], [0, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([[0], [1], [0], [1]], ("0", "1")),  # a list of one flag would say nothing
        ([[0, 1], [1], [0], [0, 1]], ("0", "1")),  # lists of several lengths
        ([[0, 2], [1, 0], [2, 1], [1, 2]], ("0", "1", "2")),
        ([["0", "1"], ["1", "0"], ["0", "1"], ["1", "0"]], ("0", "1")),  # names
    ],
)
def test_lists_that_are_no_flags_hold_labels(base: Path, tmp_path: Path, labels: Any, names: tuple[str, ...]) -> None:
    prepared = _prepare(base, _write(tmp_path, labels))
    assert prepared.task.labels == names
    assert prepared.features["validation"]["labels"] == [[float(n in map(str, row)) for n in names] for row in labels]


def test_the_hubs_class_labels_in_lists_become_names(base: Path, tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["calm", "loud"])
    typed = datasets.Features({"text": datasets.Value("string"), "labels": datasets.List(names)})
    rows = [{"text": text, "labels": each} for text, each in zip(TEXTS, ([0], [1], [0, 1], [1]), strict=True)]
    datasets.Dataset.from_list(rows * 5, features=typed).save_to_disk(str(tmp_path / "saved"))
    prepared = _prepare(base, tmp_path / "saved")
    assert prepared.task.labels == ("calm", "loud")
    assert {tuple(row) for row in prepared.features["train"]["labels"]} == {(1, 0), (0, 1), (1, 1)}


@pytest.mark.parametrize("labels", [[[0.5], [1], [0], [2]], [[[0]], [[1]], [[0]], [[1]]], [["a", None], ["b"], [], []]])
def test_what_is_no_label_is_named(base: Path, tmp_path: Path, labels: Any) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl row 1: label is .*a string or whole number is expected"):
        _prepare(base, _write(tmp_path, labels))


def test_a_run_on_flags_trains_and_records_its_problem_type(base: Path, tmp_path: Path) -> None:
    data = _write(tmp_path / "data", [[1, 0], [0, 1], [1, 1], [0, 0]])
    flags = {"task": "text-classification", "model": str(base), "data": str(data)}
    run = finetune(load_config(flags={**QUICK, **flags}), tmp_path / "run")
    assert (run.problem_type, run.labels) == ("multi_label_classification", ("0", "1"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["inputs"][0] == "input_ids"


def test_texts_that_are_truncated_are_counted(base: Path, tmp_path: Path) -> None:
    """Pairs, too; and a text that fills the limit is not one of them."""
    rows = [{"text": "good " * 6, "text_pair": "film", "label": 0}, {"text": "bad " * 40, "text_pair": "a", "label": 1}]
    rows += [{"text": "good " * 28, "text_pair": "film", "label": 0}]
    data = write_splits(tmp_path, train=rows * 4, validation=rows)
    prepared = _prepare(base, data, max_length=32)
    lengths = prepared.features["validation"]["length"]
    assert lengths == [10, 32, 32]
    assert prepared.features["validation"]["truncated"] == [False, True, False]
    assert "4 of 12 rows of train.jsonl are longer than the settings allow and are truncated" in prepared.warnings


@pytest.mark.parametrize(
    ("task", "column", "in_train", "elsewhere"),
    [
        ("text-classification", "label", [1, 0, 1, 0], ["1", "0", "1", "0"]),
        ("text-classification", "labels", [["a", "b"], ["b"], [], ["a"]], [["b", "a"], ["b"], [], ["a"]]),
        ("regression", "score", [1, 0, 1, 2], [1.0, 0.0, 1.0, 2.5]),
    ],
)
def test_rows_of_two_splits_are_the_same_whatever_the_type_of_their_targets(
    base: Path, tmp_path: Path, task: str, column: str, in_train: list[Any], elsewhere: list[Any]
) -> None:
    rows = [
        [{"text": t, column: each} for t, each in zip(TEXTS, values, strict=True)] for values in (in_train, elsewhere)
    ]
    prepared = _prepare(base, write_splits(tmp_path, train=rows[0], validation=rows[1]), task=task)
    changed = [f"1 of train's 4 rows are also in validation.jsonl with another {column}"] if column == "score" else []
    same = 4 - len(changed)
    assert prepared.warnings[: 1 + len(changed)] == (f"{same} of train's 4 rows are also in validation.jsonl", *changed)
