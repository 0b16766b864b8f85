"""Reads labelled data as splits with a task's columns; `tuneport.data.sources` reads the files.

Rows stay on disk as Arrow, so memory does not grow with their number.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from tuneport.data.columns import select_columns, source_columns
from tuneport.data.rows import Problems, canonical_row, numbered_rows
from tuneport.data.sources import load_splits
from tuneport.data.splits import complete_splits
from tuneport.errors import DataError
from tuneport.folders import digest
from tuneport.schema.run import DataSource


@dataclass(frozen=True)
class Data:
    """The splits, with the task's column names, and the record of their source."""

    splits: dict[str, Dataset]
    source: DataSource
    files: dict[str, str] = field(default_factory=dict)
    """Split → its name in messages: that of its file."""


def read_data(
    source: str, *, columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str], seed: int
) -> Data:
    """Read every split with the task's columns, renamed to the task's names.

    `source` is a folder, a file or a name on the hub; `columns` maps columns of the task to those of the source. A
    single file is split 80/10/10 with the seed; without a validation split a tenth of train becomes it. Raises
    DataError for a source that cannot be read, a missing column, or a file without rows.
    """
    selected, files = read_files(source, columns=columns, required=required, optional=optional)
    splits = complete_splits(selected, source, seed)
    record = DataSource(
        source=str(Path(source).resolve()) if Path(source).exists() else source,
        columns=dict(columns),
        seed=seed,
        fingerprint=digest([fingerprint(splits[name]) for name in sorted(splits)]),
        rows={name: len(rows) for name, rows in splits.items()},
    )
    divided_file = files.get("train") or files["all"]
    return Data(splits, record, {name: files.get(name, f"{divided_file} ({name})") for name in splits})


def read_files(
    source: str, *, columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str]
) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Read the splits that the source has, and the name of each in messages; a single file is the split `all`.

    Raises DataError as `read_data` does, for all files at once.
    """
    names = source_columns(columns, required, optional)
    loaded, files = load_splits(source)
    column_problems = [
        f"{files[split]} has no column {missing}, it has {rows.column_names}"
        for split, rows in loaded.items()
        if (missing := [c for n, c in names.items() if (n in required or n in columns) and c not in rows.column_names])
    ]
    if column_problems:
        remedy = f"rename with --columns {[*required, *optional][0]}=YOUR_COLUMN"
        if any(len(rows.column_names) == 1 and set(rows.column_names[0]) & set(";\t|") for rows in loaded.values()):
            remedy = "separate the columns of a CSV with commas"
        raise DataError(", ".join(column_problems), remedy)
    problems = Problems("correct these rows, or rename columns with --columns")
    splits = {split: select_columns(rows, files[split], names, problems) for split, rows in loaded.items()}
    problems.raise_if_any()
    return splits, files


def reread(record: DataSource, *, required: Sequence[str], optional: Sequence[str]) -> Data:
    """Read the data of a run or an artifact again; raises DataError if it is gone or has changed."""
    remedy = "restore it, or give data of the same task with --data"
    try:
        data = read_data(record.source, columns=record.columns, required=required, optional=optional, seed=record.seed)
    except DataError as error:
        raise DataError(f"the data that was used before cannot be read: {error.problem}", remedy) from error
    if data.source.fingerprint != record.fingerprint:
        raise DataError(f"{record.source} has changed since it was used", remedy)
    return data


def fingerprint(rows: Dataset) -> str:
    """Hash the rows of a split, in order."""
    sha = hashlib.sha256()
    for _, row in numbered_rows(rows):
        sha.update(canonical_row(row).encode(errors="surrogatepass"))
        sha.update(b"\n")
    return sha.hexdigest()
