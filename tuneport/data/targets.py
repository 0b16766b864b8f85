"""The forms of targets: splits without any, and rows of flags in place of lists of labels."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from datasets import Dataset, List, Value

from tuneport.data.files import LoadedSplit
from tuneport.data.rows import BATCH_ROWS

TARGET_COLUMNS = ("label", "labels", "score", "tags", "answers", "target")
"""Columns that a model predicts from the others."""
NO_LABEL = (-1, "-1")
"""What GLUE and others write in place of a hidden label."""


def is_unlabelled(split: LoadedSplit, train: LoadedSplit, names: Mapping[str, str]) -> bool:
    """Tell whether a split has no targets: no column of them, or nothing in it but placeholders that train lacks.

    A placeholder is None, an empty string or list, -1, or a list of placeholders. `names` maps columns of the task to
    those of the source.
    """
    targets = [names[name] for name in TARGET_COLUMNS if name in names and names[name] in train.columns]
    if not targets:
        return False
    present = [column for column in targets if column in split.columns]
    return all(_has_placeholders_only(split.rows, train.rows, column) for column in present)


def flags_to_indices(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """Convert `labels` from flags, a 0 or 1 for each class, to the indices of the classes that are set.

    Rows are flags if every list of every split holds nothing but 0 and 1 and all have one length of at least 2.
    """
    lists = [rows for rows in splits.values() if "labels" in rows.column_names]
    if not lists or not _are_flags(value for rows in lists for value in _values(rows, "labels")):
        return splits
    return {split: _with_indices(rows) if "labels" in rows.column_names else rows for split, rows in splits.items()}


def _with_indices(rows: Dataset) -> Dataset:
    features = rows.features.copy()
    features["labels"] = List(Value("int64"))
    return rows.map(
        lambda row: {"labels": [i for i, flag in enumerate(row["labels"]) if flag]}, features=features, desc="labels"
    )


def _are_flags(lists: Iterable[Any]) -> bool:
    lengths = set()
    for value in lists:
        # A string is not equal to a number, but an unhashable element would raise.
        if not isinstance(value, list) or not all(isinstance(flag, int | float) and flag in (0, 1) for flag in value):
            return False
        lengths.add(len(value))
        if len(lengths) > 1:
            return False
    return bool(lengths) and min(lengths) >= 2


def _has_placeholders_only(rows: Dataset, train: Dataset, column: str) -> bool:
    found = set()
    for value in _values(rows, column):
        placeholder = _placeholder(value)
        if placeholder is None:
            return False
        found.add(placeholder)
    return all(_placeholder(value) not in found for value in _values(train, column))


def _placeholder(value: Any) -> str | None:
    """Return which placeholder a value is; None for a target."""
    if isinstance(value, dict):  # SQuAD's answers
        value = list(value.values())
    if isinstance(value, list):
        return "empty" if not value else "list" if all(map(_placeholder, value)) else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return "empty"
    return "-1" if not isinstance(value, bool) and value in NO_LABEL else None


def _values(rows: Dataset, column: str) -> Iterator[Any]:
    for batch in rows.select_columns(column).iter(BATCH_ROWS):
        yield from batch[column]
