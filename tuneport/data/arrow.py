"""Writes rows of Python values to Arrow files in the cache of `datasets`, with types that fit all rows."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features, Json, List, Value
from datasets.arrow_writer import ArrowWriter

from tuneport.data.rows import BATCH_ROWS
from tuneport.errors import DataError
from tuneport.folders import digest, sha256

READER_VERSION = 4
"""To be raised when a file would be read differently, so that what was cached before is not used."""
INT64 = range(-(2**63), 2**63)
INT54 = range(-(2**53), 2**53 + 1)
"""Whole numbers that are the same as fractions: float64 has a place for each."""
DECODED = range(-(2**63), 2**64)
"""Whole numbers that `datasets` decodes from JSON; it fails at others."""
SCALARS = {type(None): "null", bool: "bool", float: "float64", str: "string"}
Kind = str | tuple[str, Any]
"""The type of values: of a scalar, `json` for what Arrow has no type for, or ("list", the type of the elements).

`int54` are whole numbers that can stand among fractions; a column of theirs is one of int64.
"""
NUMBERS: dict[frozenset[Kind], Kind] = {
    frozenset(("int54", "float64")): "float64",
    frozenset(("int54", "int64")): "int64",
}


@dataclass(frozen=True)
class Table:
    """Rows on disk, and the names of all columns that the file has."""

    rows: Dataset
    columns: list[str]


def to_arrow(path: Path, read: Callable[[Path], Iterable[dict[str, Any]]], wanted: Collection[str] | None) -> Table:
    """Write the wanted columns of a file that `read` reads, with None all; a value that a row lacks is None.

    The file is read twice, so that memory does not grow with its rows: Arrow has one type for a column, and the rows
    decide it together.
    """
    columns, kinds = _scan(path, read(path), None if wanted is None else set(wanted))
    kept = list(kinds)
    key = digest([READER_VERSION, path.name, sha256(path), kept])
    file = Path(datasets.config.HF_DATASETS_CACHE) / "tuneport" / f"{key}.arrow"
    if not file.is_file():
        features = Features({name: _feature(kind) for name, kind in kinds.items()})
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{key}.{os.getpid()}")
        try:
            _write(unfinished, read(path), features)
            unfinished.rename(file)
        finally:
            unfinished.unlink(missing_ok=True)
    return Table(Dataset.from_file(str(file)), columns)


def _scan(path: Path, rows: Iterable[dict[str, Any]], wanted: set[str] | None) -> tuple[list[str], dict[str, Kind]]:
    """Return the names of all columns, and the type of each wanted one; raises DataError if there are no rows."""
    columns: dict[str, None] = {}
    kinds: dict[str, Kind] = {}
    has_rows = False
    for row in rows:
        has_rows = True
        columns.update(dict.fromkeys(row))
        for name in row.keys() if wanted is None else wanted & row.keys():
            kinds[name] = _merge(kinds.get(name, "null"), _kind(row[name]))
    if not has_rows:
        raise DataError(f"{path} has no rows", "give a file with rows")
    return list(columns), {name: kinds[name] for name in columns if name in kinds}


def _write(file: Path, rows: Iterable[dict[str, Any]], features: Features) -> None:
    schema = features.arrow_schema
    with ArrowWriter(features=features, path=str(file)) as writer:
        for batch in _batches(iter(rows)):
            arrays = [_array([row.get(field.name) for row in batch], field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        writer.finalize()


def _array(values: list[Any], arrow_type: Any) -> Any:
    if arrow_type != pa.json_():
        return pa.array(values, arrow_type)
    texts = [None if value is None else json.dumps(_decodable(value), ensure_ascii=False) for value in values]
    return pa.ExtensionArray.from_storage(arrow_type, pa.array(texts, pa.string()))


def _decodable(value: Any) -> Any:
    """Return a JSON value with its digits as a string in the place of each whole number that is not decoded."""
    if isinstance(value, dict):
        return {name: _decodable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_decodable(each) for each in value]
    return str(value) if isinstance(value, int) and value not in DECODED else value


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def _kind(value: Any) -> Kind:
    if isinstance(value, list):
        kind: Kind = "null"
        for element in value:
            kind = _merge(kind, _kind(element))
        return "json" if kind == "json" else ("list", kind)
    if isinstance(value, int) and not isinstance(value, bool):
        return "int54" if value in INT54 else "int64" if value in INT64 else "json"
    return SCALARS.get(type(value), "json")


def _merge(first: Kind, second: Kind) -> Kind:
    """Return the type that holds values of both."""
    if first == second or second == "null":
        return first
    if first == "null":
        return second
    if isinstance(first, tuple) and isinstance(second, tuple):
        element = _merge(first[1], second[1])
        return "json" if element == "json" else ("list", element)
    return NUMBERS.get(frozenset((first, second)), "json")


def _feature(kind: Kind) -> Any:
    if isinstance(kind, tuple):
        return List(_feature(kind[1]))
    return Json() if kind == "json" else Value({"null": "string", "int54": "int64"}.get(kind, kind))
