"""Splits are found by their names, a test split without targets is left out, and missing columns are named."""

import gzip
from pathlib import Path
from typing import Any

import datasets
import pytest
from kit.data import write_rows, write_splits

from tuneport.data.reader import Data, read_data
from tuneport.errors import DataError


def _read(source: Path, **options: Any) -> Data:
    return read_data(
        str(source), **{"columns": {}, "required": ("text", "label"), "optional": (), "seed": 0, **options}
    )


ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(20)]


@pytest.mark.parametrize("label", [-1, "", None, "-1"])
def test_a_test_split_without_labels_is_left_out(tmp_path: Path, label: Any) -> None:
    hidden = [{"text": "a", "label": label}, {"text": "b", "label": label}]
    data = _read(write_splits(tmp_path, train=ROWS, test=hidden))
    assert data.splits.keys() == {"train", "validation"}
    assert data.warnings == ("test.jsonl has no targets, so there is no test split",)
    one_has = _read(write_splits(tmp_path, train=ROWS, test=[*hidden, ROWS[0]]))
    assert "test" in one_has.splits


@pytest.mark.parametrize(
    ("column", "known", "hidden"),
    [
        ("score", 3.5, -1.0),
        ("tags", ["O", "B-X"], [-1, -1]),
        ("tags", ["O", "B-X"], []),
        ("answers", {"text": ["a"], "answer_start": [0]}, {"text": [], "answer_start": []}),
        ("labels", ["x"], []),
        ("target", "a", ""),
    ],
)
def test_placeholders_of_every_task_are_known(tmp_path: Path, column: str, known: Any, hidden: Any) -> None:
    train, test = [{"text": "a", column: known}] * 20, [{"text": "b", column: hidden}] * 2
    options = {"required": ("text", column)}
    assert "test" not in _read(write_splits(tmp_path, train=train, test=test), **options).splits
    without = [{"text": "b"}]
    assert "test" not in _read(write_splits(tmp_path, train=train, test=without), **options).splits
    # What train has, too, is a target: unanswerable questions, no label, the class -1.
    data = _read(write_splits(tmp_path, train=[*train, {"text": "b", column: hidden}], test=test), **options)
    assert "test" in data.splits


def test_a_hidden_class_of_the_hub_is_a_placeholder(tmp_path: Path) -> None:
    typed = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    splits = {
        "train": [{"text": "a", "label": i % 2} for i in range(20)], "validation_matched": [{"text": "a", "label": 1}],
        "validation_mismatched": [{"text": "b", "label": 0}], "test_matched": [{"text": "b", "label": -1}],
    }  # fmt: skip
    saved = {name: datasets.Dataset.from_list(rows, features=typed) for name, rows in splits.items()}
    datasets.DatasetDict(saved).save_to_disk(str(tmp_path / "mnli"))
    names = {"validation": "validation_mismatched", "test": "test_matched"}
    data = _read(tmp_path / "mnli", splits=names)
    assert list(data.splits["validation"]) == [{"text": "b", "label": "no"}]
    assert data.splits.keys() == {"train", "validation"}
    assert data.warnings == ("mnli (test_matched) has no targets, so there is no test split",)
    assert data.source.splits == names


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    write_splits(tmp_path, train=ROWS, dev_a=ROWS[:2], dev_b=ROWS[:3], test=ROWS[:4])
    assert len(_read(tmp_path, splits={"validation": "dev_b"}).splits["validation"]) == 3
    assert len(_read(tmp_path, splits={"validation": "dev_a.jsonl"}).splits["validation"]) == 2
    with pytest.raises(DataError, match=r"has no 'dev_c' for validation, only dev_a\.jsonl, dev_b\.jsonl, test\.jsonl"):
        _read(tmp_path, splits={"validation": "dev_c"})
    with pytest.raises(DataError, match=r"--splits names \['valid'\]; name train, validation, test"):
        _read(tmp_path, splits={"valid": "dev_a"})
    with pytest.raises(DataError, match="has no splits, and --splits names some"):
        _read(tmp_path / "train.jsonl", splits={"validation": "dev_a"})


def test_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "train.CSV").write_text("text,label\n" + "".join(f"a,{i % 2}\n" for i in range(12)))
    (tmp_path / "dev.JSONL.GZ").write_bytes(gzip.compress(b'{"text": "a", "label": "1"}'))
    assert _read(tmp_path).source.rows == {"train": 12, "validation": 1}


def test_a_folder_without_train_says_what_it_has(tmp_path: Path) -> None:
    for i in range(13):
        write_rows(tmp_path / f"part{i:02}.jsonl", ROWS)
    with pytest.raises(DataError, match=r"no train file or split, only part00\.jsonl, .*part09\.jsonl and 3 more"):
        _read(tmp_path)


def test_a_file_with_none_of_the_columns_that_a_task_chooses_from_names_its_own(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.jsonl", [{"conversation": "hello"}] * 12)
    with pytest.raises(DataError, match=r"x\.jsonl has no column 'text' and no 'messages', only 'conversation'"):
        _read(file, required=(), optional=("text", "messages"))
    assert len(_read(file, required=(), optional=("text",), columns={"text": "conversation"}).splits["train"]) == 9


def test_a_missing_column_is_named_with_its_own_name_in_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text;stars\n" + "good film;3\n" * 12)
    with pytest.raises(DataError) as error:
        _read(tmp_path / "x.csv")
    problem = "x.csv has no column 'label', only 'text', 'stars' (separated by ';')"
    assert str(error.value) == f"{problem}; rename with --columns label=YOUR_COLUMN"
