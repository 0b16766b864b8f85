"""Loads one file of labelled data as Arrow, by the format that its name tells."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from pyarrow import parquet

from tuneport.data.arrow import to_arrow
from tuneport.data.conll_rows import read_conll
from tuneport.data.json_rows import read_json, read_json_lines
from tuneport.data.table_rows import find_delimiter, has_header, read_csv, read_tsv
from tuneport.data.textfile import GZIP
from tuneport.errors import DataError

READERS: dict[str, Callable[[Path], Iterable[dict[str, Any]]]] = {
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    **dict.fromkeys((".conll", ".iob", ".bio", ".txt"), read_conll),
}
PARQUET = ".parquet"
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
"""The name, without its suffix, of one of several files of a split, as `datasets` writes them."""
SUFFIXES = (*READERS, *(suffix + GZIP for suffix in READERS), PARQUET)
FORMATS = f"{', '.join((*READERS, PARQUET))}, all but {PARQUET} also with {GZIP}"


@dataclass(frozen=True)
class LoadedSplit:
    """The rows of a split, with the columns that were asked for."""

    rows: Dataset
    columns: list[str]
    """All columns that the source has."""
    file: str
    """The split's name in messages."""
    delimiter: str | None = None
    """Of a table, whose cells are all strings; None for formats that have types."""
    has_header: bool = True
    """Whether the first row of a table looks like the names of its columns."""


def suffix_of(file: str) -> str | None:
    """Return the suffix of a file's name that tells its format, in lower case; None for an unknown format."""
    return next((each for each in SUFFIXES if file.lower().endswith(each)), None)


def load_file(path: Path, wanted: Collection[str] | None) -> LoadedSplit:
    """Load the wanted columns of a file, with None all; raises DataError if it cannot be read or has no rows."""
    suffix = suffix_of(path.name)
    if suffix is None:
        raise DataError(f"{path} has an unknown format", f"give one of {FORMATS}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty", "give a file with rows")
    kind = suffix.removesuffix(GZIP)
    if kind == PARQUET:
        return load_parquet([path])
    delimiter = _delimiter(path, kind)
    table = to_arrow(path, READERS[kind], wanted)
    is_named = delimiter is None or has_header(path, delimiter)
    return LoadedSplit(table.rows, table.columns, path.name, delimiter, is_named)


def load_parquet(files: Sequence[Path]) -> LoadedSplit:
    """Load a Parquet file, or all shards of a split in their order; raises DataError as `load_file` does."""
    name = files[0].name if len(files) == 1 else SHARD.sub(r"\1-*-of-\3", files[0].name)
    try:
        if not sum(_count_rows(file) for file in files):
            raise DataError(f"{files[0].parent / name} has no rows", "give a file with rows")
        rows = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except DataError:
        raise
    except Exception as error:  # datasets raises its own exceptions, and pyarrow's
        raise _unreadable(files[0].parent / name, error) from error
    return LoadedSplit(rows, rows.column_names, name)


def root_message(error: Exception) -> str:
    """Return the first line of the exception that caused others."""
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    return str(root).splitlines()[0][:200] if str(root) else type(root).__name__


def _delimiter(path: Path, kind: str) -> str | None:
    if kind == ".csv":
        return find_delimiter(path)
    return "\t" if kind == ".tsv" else None


def _count_rows(file: Path) -> int:
    try:
        return int(parquet.read_metadata(file).num_rows)
    except Exception as error:  # pyarrow's
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} cannot be read: {root_message(error)}", "correct the file")
