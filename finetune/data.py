"""Labelled data: the splits with a task's columns, checked row by row; `sources` reads the files.

Everything stays on disk as Arrow, so memory does not grow with the number of rows.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, List, Value

from export.files import DataError, digest
from export.manifest import DataSource
from finetune.sources import load
from finetune.splits import complete

SHOWN_PROBLEMS = 5
NUMBERS = ("score",)
"""Columns of numbers."""
BATCH_ROWS = 1000


@dataclass(frozen=True)
class Data:
    """Splits with the task's column names, and the record of where they came from."""

    splits: dict[str, Dataset]
    source: DataSource
    files: dict[str, str] = field(default_factory=dict)
    """Split → what to call it in a message."""


class Problems:
    """Collects what is wrong in the data, to report all of it at once."""

    def __init__(self, remedy: str) -> None:
        """`remedy` ends the message."""
        self._remedy = remedy
        self._found: list[str] = []
        self._count = 0

    def add(self, place: str, problem: str) -> None:
        """Note a problem with its place (file and row)."""
        self._count += 1
        if len(self._found) < SHOWN_PROBLEMS:
            self._found.append(f"{place}: {problem}")

    def raise_if_any(self) -> None:
        """Raise a DataError that lists the first problems and counts the rest."""
        if self._count:
            more = f" (and {self._count - len(self._found)} more)" if self._count > len(self._found) else ""
            raise DataError(", ".join(self._found) + more, self._remedy)


def read_data(
    source: str, *, columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str], seed: int
) -> Data:
    """Read every split and keep the task's columns, renamed to the task's names.

    A single file is split 80/10/10 with the seed; where a folder or hub name has no validation split, a tenth
    of train becomes it. Raises DataError for what cannot be read, an absent column, or a file without rows.
    """
    selected, files = read_files(source, columns=columns, required=required, optional=optional)
    splits = complete(selected, source, seed)
    record = DataSource(
        source=str(Path(source).resolve()) if Path(source).exists() else source,
        columns=dict(columns),
        seed=seed,
        fingerprint=digest([_fingerprint(splits[name]) for name in sorted(splits)]),
        rows={name: len(rows) for name, rows in splits.items()},
    )
    whole = files.get("train") or files["all"]
    return Data(splits, record, {name: files.get(name, f"{whole} ({name})") for name in splits})


def read_files(
    source: str, *, columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str]
) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Read the splits that are there with the task's columns, and what to call each; one file is the split `all`.

    Raises DataError as `read_data` does, for all files at once.
    """
    names = _names(columns, required, optional)
    loaded, files = load(source)
    absent = [
        f"{files[split]} has no column {missing}, it has {rows.column_names}"
        for split, rows in loaded.items()
        if (missing := [c for n, c in names.items() if (n in required or n in columns) and c not in rows.column_names])
    ]
    if absent:
        remedy = f"rename with --columns {[*required, *optional][0]}=YOUR_COLUMN"
        if any(len(rows.column_names) == 1 and set(rows.column_names[0]) & set(";\t|") for rows in loaded.values()):
            remedy = "separate the columns of a CSV with commas"
        raise DataError(", ".join(absent), remedy)
    problems = Problems("correct these rows, or rename columns with --columns")
    splits = {split: _select(rows, files[split], names, problems) for split, rows in loaded.items()}
    problems.raise_if_any()
    return splits, files


def reread(record: DataSource, *, required: Sequence[str], optional: Sequence[str]) -> Data:
    """Read again what a run or an artifact was made from; a DataError if it is gone or has changed."""
    remedy = "restore it, or give data of the same task with --data"
    try:
        data = read_data(record.source, columns=record.columns, required=required, optional=optional, seed=record.seed)
    except DataError as error:
        raise DataError(f"the data that was used before cannot be read: {error.problem}", remedy) from error
    if data.source.fingerprint != record.fingerprint:
        raise DataError(f"{record.source} has changed since it was used", remedy)
    return data


def with_string_labels(rows: Dataset) -> Dataset:
    """Write labels as strings, be they numbers in the data, or numbers and strings."""
    features = rows.features.copy()
    features["label"] = Value("string")
    return rows.map(
        lambda row: {"label": None if row["label"] is None else str(row["label"])}, features=features, desc="labels"
    )


def rows_of(rows: Dataset) -> Iterator[tuple[int, dict[str, Any]]]:
    """Go through a split: rows, and their numbers from 1 in the file that they came from."""
    position = 0
    for batch in rows.iter(BATCH_ROWS):
        for values in zip(*batch.values(), strict=True):
            yield place_of(rows, position), dict(zip(batch, values, strict=True))
            position += 1


def place_of(rows: Dataset, position: int) -> int:
    """Return the number, from 1, that a split's row (counted from 0) has in the file that it came from."""
    return 1 + (position if rows._indices is None else int(rows._indices.column(0)[position].as_py()))


def short(value: Any) -> str:
    """Show a value in a message."""
    return "an empty string" if isinstance(value, str) and not value.strip() else repr(value)[:60]


def check_strings(rows: Dataset, file: str, problems: Problems, columns: Sequence[str]) -> None:
    """Check that each of the columns that is there holds strings with something in them."""
    for number, row in rows_of(rows):
        for column in columns:
            if column in row and (not isinstance(row[column], str) or not row[column].strip()):
                problems.add(f"{file} row {number}", f"{column} is {short(row[column])}")


def content(row: dict[str, Any]) -> str:
    """Write a row as one string, the same for equal rows."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)


def _names(columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    """Return the data's column for each of the task's columns, after `--columns`."""
    wanted = [*required, *optional]
    if unknown := [name for name in columns if name not in wanted]:
        raise DataError(f"--columns names {unknown}, and the task knows {wanted}", "write task-column=your-column")
    # An optional column that was renamed is no longer there under its own name.
    names = {n: columns.get(n, n) for n in wanted if n in columns or n in required or n not in columns.values()}
    if twice := sorted(column for column, count in Counter(names.values()).items() if count > 1):
        raise DataError(f"{twice} would be several of the task's columns at once", "name each in --columns once")
    return names


def _select(rows: Dataset, file: str, names: Mapping[str, str], problems: Problems) -> Dataset:
    """Keep the task's columns under the task's names; label numbers of the hub become label names."""
    kept = {name: column for name, column in names.items() if column in rows.column_names}
    for name, column in kept.items():
        rows = _with_label_names(rows, column, f"{file}: {name} names")
    rows = rows.select_columns(list(kept.values())).rename_columns({c: n for n, c in kept.items() if c != n})
    for name in NUMBERS:
        # A cell of a CSV is a string; in the other formats a string is no number.
        if name in kept and file.endswith(".csv"):
            rows = _with_numbers(rows, file, name, problems)
    return rows


def _with_numbers(rows: Dataset, file: str, column: str, problems: Problems) -> Dataset:
    """Turn a column of strings into float64; cells that are no finite numbers are reported, each with its row."""
    numbers: list[float] = []
    for number, row in rows_of(rows.select_columns(column)):
        value = _number(row[column])
        if not math.isfinite(value):
            problems.add(f"{file} row {number}", f"{column} is {short(row[column])}, and a number is expected")
        numbers.append(value)
    return rows.remove_columns(column).add_column(column, numbers)


def _number(cell: str) -> float:
    """Read a cell; nan for what is no number."""
    try:
        return math.nan if "_" in cell else float(cell)  # Python alone reads 1_000
    except ValueError:
        return math.nan


def _with_label_names(rows: Dataset, column: str, description: str) -> Dataset:
    """Replace the hub's label numbers by their names, in a column of numbers or of lists of numbers."""
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        numbers = rows.cast_column(column, Value("int64"))
        return numbers.map(lambda row: {column: _label_name(feature, row[column])}, desc=description)
    inner = getattr(feature, "feature", None)
    if isinstance(inner, ClassLabel):
        numbers = rows.cast_column(column, List(Value("int64")))
        return numbers.map(
            lambda row: {column: None if row[column] is None else [_label_name(inner, n) for n in row[column]]},
            desc=description,
        )
    return rows


def _label_name(feature: ClassLabel, number: int | None) -> str | None:
    return None if number is None or number < 0 else str(feature.int2str(number))


def _fingerprint(rows: Dataset) -> str:
    sha = hashlib.sha256()
    for _, row in rows_of(rows):
        sha.update(content(row).encode(errors="surrogatepass"))
        sha.update(b"\n")
    return sha.hexdigest()
