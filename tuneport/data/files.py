"""Loads one file of labelled data as Arrow, by the format that its name tells."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features
from datasets.features.features import generate_from_arrow_type
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
EXCEL = "save it as CSV UTF-8 in your spreadsheet program"
TO_PARQUET = "read it with pandas, and write it with to_parquet"
CONVERSIONS = {
    **dict.fromkeys((".xlsx", ".xlsm", ".xls", ".ods", ".numbers"), EXCEL),
    **dict.fromkeys((".pkl", ".pickle", ".feather", ".arrow", ".orc", ".h5", ".xml"), TO_PARQUET),
    **dict.fromkeys((".zip", ".7z", ".tar", ".tgz", ".bz2", ".xz", ".zst"), "unpack it, or compress it with gzip"),
}
"""Suffix of a format that people have and that is not read → how to make one that is."""
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
        raise unknown_format(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty", "give a file with rows")
    kind = suffix.removesuffix(GZIP)
    if kind == PARQUET:
        return load_parquet([path], wanted)
    delimiter = _delimiter(path, kind)
    table = to_arrow(path, READERS[kind], wanted)
    is_named = delimiter is None or has_header(path, delimiter)
    return LoadedSplit(table.rows, table.columns, path.name, delimiter, is_named)


def unknown_format(path: Path) -> DataError:
    """Return the error for a file of a format that is not read."""
    remedy = CONVERSIONS.get(path.suffix.lower(), f"give one of {FORMATS}")
    return DataError(f"{path} has a format that is not read", remedy)


def load_parquet(files: Sequence[Path], wanted: Collection[str] | None) -> LoadedSplit:
    """Load a Parquet file, or all shards of a split in their order; raises DataError as `load_file` does.

    Columns of types that `datasets` does not have, such as maps, are left out unless they are wanted.
    """
    name = files[0].name if len(files) == 1 else SHARD.sub(r"\1-*-of-\3", files[0].name)
    try:
        if not sum(_count_rows(file) for file in files):
            raise DataError(f"{files[0].parent / name} has no rows", "give a file with rows")
        options = _readable_columns(files[0], wanted or ())
        paths = [str(file) for file in files]
        rows = datasets.load_dataset("parquet", data_files=paths, split="train", **options)
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


def _readable_columns(file: Path, wanted: Collection[str]) -> dict[str, Any]:
    """Return options that leave out columns whose types `datasets` does not have; raises DataError for a wanted one."""
    schema = parquet.read_schema(file)
    readable = []
    for field in schema:
        try:
            generate_from_arrow_type(field.type)
            readable.append(field)
        except ValueError as error:
            if field.name in wanted:
                problem = f"{file}: the column {field.name!r} has the type {field.type}"
                raise DataError(problem, "write it as strings, numbers or lists of them") from error
    if len(readable) == len(schema):
        return {}
    return {"columns": [field.name for field in readable], "features": Features.from_arrow_schema(pa.schema(readable))}


def _count_rows(file: Path) -> int:
    try:
        return int(parquet.read_metadata(file).num_rows)
    except Exception as error:  # pyarrow's
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} cannot be read: {root_message(error)}", "correct the file")
