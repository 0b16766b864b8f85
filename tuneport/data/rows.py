"""Iterates over the rows of a split, and collects the problems found in them."""

import bisect
import json
import re
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from datasets import Dataset, Value

from tuneport.errors import DataError

SHOWN_PROBLEMS = 5
"""Problems that an error message lists; it counts the others."""
BATCH_ROWS = 1000
SPLIT_NAME = re.compile(r" \(\w+\)$")
"""After the name of a single file that was split."""


class Problems:
    """Collects the problems of the data, to report them in one error."""

    def __init__(self, remedy: str) -> None:
        """`remedy` is the end of the message."""
        self._remedy = remedy
        self._remedies: dict[str, str] = {}
        self._files: dict[str, int] = {}
        self._found: list[tuple[tuple[int, ...], str]] = []
        """The first rows of the files, in their order: those of a single file were shuffled when it was split."""
        self._count = 0

    def add(self, place: str, problem: str, remedy: str | None = None) -> None:
        """Add a problem and its place, such as `train.jsonl row 3`; `remedy` is one for this problem in particular.

        Of remedies that differ only in an example, which a colon precedes, the first is kept.
        """
        self._count += 1
        if remedy:
            self._remedies.setdefault(remedy.partition(":")[0], remedy)
        file, _, row = place.partition(" row ")
        order = self._files.setdefault(SPLIT_NAME.sub("", file), len(self._files))
        rank = (order, *map(int, re.findall(r"\d+", row)))
        bisect.insort(self._found, (rank, f"{place}: {problem}"), key=itemgetter(0))
        del self._found[SHOWN_PROBLEMS:]

    def raise_if_any(self) -> None:
        """Raise a DataError that lists the first problems and counts the others."""
        if self._count:
            more = f" (and {self._count - len(self._found)} more)" if self._count > len(self._found) else ""
            raise DataError(
                ", ".join(text for _, text in self._found) + more,
                ", and ".join(self._remedies.values()) or self._remedy,
            )


def numbered_rows(rows: Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row of a split with its number in the source file, counted from 1."""
    position = 0
    for batch in rows.iter(BATCH_ROWS):
        for values in zip(*batch.values(), strict=True):
            yield row_number(rows, position), dict(zip(batch, values, strict=True))
            position += 1


def row_number(rows: Dataset, position: int) -> int:
    """Return the number in the source file, from 1, of the row at a position of the split, from 0."""
    return 1 + (position if rows._indices is None else int(rows._indices.column(0)[position].as_py()))


def preview(value: Any) -> str:
    """Return the beginning of a value, for a message."""
    return "an empty string" if isinstance(value, str) and not value.strip() else repr(value)[:60]


def canonical_row(row: dict[str, Any]) -> str:
    """Serialize a row so that equal rows give equal strings."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)


def check_strings(rows: Dataset, file: str, problems: Problems, columns: Sequence[str]) -> None:
    """Check that those of the columns that a split has hold non-empty strings."""
    for number, row in numbered_rows(rows):
        for column in columns:
            if column in row and (not isinstance(row[column], str) or not row[column].strip()):
                value = row[column]
                remedy = None if isinstance(value, str) or value is None else f"write {column} as a string"
                remedy = remedy or f"fill or remove the rows without {column}"
                problems.add(f"{file} row {number}", f"{column} is {preview(value)}", remedy)


def with_string_labels(rows: Dataset) -> Dataset:
    """Convert the column `label` to strings; None stays None, and rows keep their numbers in the source file."""
    if rows._indices is not None:  # `map` would number the rows by their places in the split
        source = Dataset(rows._data, info=rows.info, split=rows.split)
        return with_string_labels(source)._select_with_indices_mapping(rows._indices.column(0).to_pylist())
    features = rows.features.copy()
    features["label"] = Value("string")
    return rows.map(
        lambda row: {"label": None if row["label"] is None else str(row["label"])}, features=features, desc="labels"
    )
