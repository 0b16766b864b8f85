"""Maps the columns of a source to those of a task, and converts label numbers and cells of CSV files."""

import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from datasets import ClassLabel, Dataset, LargeList, List, Value

from tuneport.data.column_types import convert_type
from tuneport.data.files import LoadedSplit
from tuneport.data.rows import Problems, numbered_rows, preview
from tuneport.errors import DataError

NUMBER_COLUMNS = ("score",)
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
LIST_COLUMNS = {
    "labels": '"labels": ["a", "b"]',
    "tokens": '"tokens": ["Ann", "sleeps"]',
    "tags": '"tags": ["B-PER", "O"]',
    "answers": '"answers": {"text": ["Paris"], "answer_start": [23]}',
    "messages": '"messages": [{"role": "user", "content": "…"}]',
}
"""Columns whose values are lists or objects, which a cell of a table cannot hold → an example in JSON."""


def source_columns(columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    """Map each column of the task to its column in the source; `columns` are those that `--columns` renames."""
    known = [*required, *optional]
    if unknown := [name for name in columns if name not in known]:
        raise DataError(f"--columns names {unknown}, and the task knows {known}", "write task-column=your-column")
    # A column of the source that is renamed is no longer available under its own name.
    names = {n: columns.get(n, n) for n in known if n in columns or n in required or n not in columns.values()}
    if duplicates := sorted(column for column, count in Counter(names.values()).items() if count > 1):
        raise DataError(f"{duplicates} would be several of the task's columns at once", "name each in --columns once")
    return names


def suggest_renaming(missing: str, names: Mapping[str, str], there: Sequence[str]) -> str:
    """Return the option that renames columns of the source: those whose names differ in case or spaces from the task's.

    Without such columns it says which of the task's is `missing`. `names` is that of `select_columns`, and `there` are
    the columns of the source.
    """
    by_key = {column.strip().lower(): column for column in there}
    absent = {name: column.strip().lower() for name, column in names.items() if column not in there}
    found = {name: by_key[key] for name, key in absent.items() if key in by_key} or {missing: "YOUR_COLUMN"}
    return "--columns " + shlex.quote(",".join(f"{name}={column}" for name, column in found.items()))


def select_columns(split: LoadedSplit, names: Mapping[str, str], problems: Problems) -> Dataset:
    """Keep the task's columns (`names` maps them to the source's) and convert their values.

    Label numbers of the hub become label names, and scores of a table numbers; `convert_type` says what becomes of
    other types. Cells that are not numbers are added to `problems`.
    """
    rows, file = split.rows, split.file
    if split.delimiter:
        _refuse_lists(file, [name for name in names if names[name] in rows.column_names])
    kept = {name: column for name, column in names.items() if column in rows.column_names}
    for name, column in kept.items():
        rows = _with_label_names(rows, column, f"{file}: {name} names")
        rows = convert_type(rows, name, column)
    rows = rows.select_columns(list(kept.values())).rename_columns({c: n for n, c in kept.items() if c != n})
    for name in NUMBER_COLUMNS:
        # Cells of a table are read as strings. In the other formats a string is not a number.
        if name in kept and split.delimiter:
            rows = _with_numbers(rows, file, name, problems)
    return rows


def _with_numbers(rows: Dataset, file: str, column: str, problems: Problems) -> Dataset:
    """Convert a column of strings to float64; cells that are not finite numbers are added to `problems`."""
    numbers: list[float] = []
    for number, row in numbered_rows(rows.select_columns(column)):
        value = _parse_number(row[column])
        if not math.isfinite(value):
            problem = f"{column} is {preview(row[column])}, and a number is expected"
            problems.add(f"{file} row {number}", problem, _number_remedy(row[column]))
        numbers.append(value)
    return rows.remove_columns(column).add_column(column, numbers)


def cells_are_no_lists(file: str, columns: Sequence[str]) -> DataError:
    """Return the error for columns of a table whose values are lists."""
    examples = ", ".join(LIST_COLUMNS.get(name, LIST_COLUMNS["labels"]) for name in columns)
    problem = f"{file} is a table, whose cells are strings, and {' and '.join(columns)} must be lists"
    return DataError(problem, f"write the rows as JSONL, one object a line: {{…, {examples}}}")


def _refuse_lists(file: str, columns: Sequence[str]) -> None:
    """Raise a DataError if a table has columns of the task whose values are lists."""
    if lists := [name for name in columns if name in LIST_COLUMNS]:
        raise cells_are_no_lists(file, lists)


def _number_remedy(cell: str) -> str | None:
    """Return the remedy for a cell that is not a number, where it is known."""
    if DECIMAL_COMMA.fullmatch(cell):
        return f"write a decimal point: {cell.strip().replace(',', '.')}"
    if cell.strip().startswith("["):
        return 'write lists of numbers as JSONL, one object a line: {…, "score": [0.5, 2.0]}'
    return None


def _parse_number(cell: str) -> float:
    """Parse a cell; nan if it is not a number."""
    try:
        return math.nan if "_" in cell else float(cell)  # 1_000 is a number in Python only
    except ValueError:
        return math.nan


def _with_label_names(rows: Dataset, column: str, description: str) -> Dataset:
    """Replace the hub's label numbers by label names, in a column of numbers or of lists of numbers."""
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        numbers = rows.cast_column(column, Value("int64"))
        return numbers.map(lambda row: {column: _label_name(feature, row[column])}, desc=description)
    items = feature.feature if isinstance(feature, List | LargeList) else None
    if isinstance(items, ClassLabel):
        numbers = rows.cast_column(column, List(Value("int64")))
        return numbers.map(
            lambda row: {column: None if row[column] is None else [_label_name(items, n) for n in row[column]]},
            desc=description,
        )
    return rows


def _label_name(feature: ClassLabel, number: int | None) -> str | None:
    return None if number is None or number < 0 else str(feature.int2str(number))
