"""Where labelled data comes from: JSONL, CSV and Parquet files and hub names, each as a data set on disk."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
from datasets import Dataset, DatasetDict, Features, Value

from export.files import DataError

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Split → names that its file may have."""
SURROGATE = re.compile("[\ud800-\udfff]")


def load(source: str) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Return the splits as they are and what to call each in a message; a single file is the split `all`."""
    with _quiet():
        return _load(Path(source), source)


def _load(path: Path, source: str) -> tuple[dict[str, Dataset], dict[str, str]]:
    if path.is_file():
        return {"all": _load_file(path)}, {"all": path.name}
    if path.is_dir():
        found = {split: file for split, names in SPLITS.items() if (file := _find(path, names))}
        if "train" not in found:
            raise DataError(f"{path} has no train file", f"add train.jsonl, or any of {', '.join(FORMATS)}")
        return {split: _load_file(file) for split, file in found.items()}, {s: f.name for s, f in found.items()}
    if path.suffix in FORMATS or source.startswith((".", "/", "~")):
        raise DataError(f"{source} does not exist", "give a file, a folder with a train file, or a hub name")
    return _load_hub(source)


def _find(folder: Path, names: Iterable[str]) -> Path | None:
    found = [
        folder / f"{name}{suffix}" for name in names for suffix in FORMATS if (folder / f"{name}{suffix}").is_file()
    ]
    if len(found) > 1:
        both = " and ".join(file.name for file in found)
        raise DataError(f"{folder} has {both} for one split", "keep one of them")
    return found[0] if found else None


def _load_file(path: Path) -> Dataset:
    if path.suffix not in FORMATS:
        raise DataError(f"{path} has an unknown format", f"give one of {', '.join(FORMATS)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty", "give a file with rows")
    if path.suffix != ".parquet":
        _check_utf8(path)
    try:
        options = _as_written(path) if path.suffix == ".csv" else {}
        rows = datasets.load_dataset(FORMATS[path.suffix], data_files=str(path), split="train", **options)
    except DataError:
        raise
    except Exception as error:  # datasets wraps pyarrow's and pandas' exceptions in its own
        if "corresponds to no data" in str(error):
            raise DataError(f"{path} has no rows", "give a file with rows") from error
        raise DataError(f"{path} cannot be read: {_cause(path, error)}", "correct the file") from error
    if not len(rows):
        raise DataError(f"{path} has no rows", "give a file with rows")
    return rows


def _as_written(path: Path) -> dict[str, Any]:
    """Return the options that read every cell of a CSV as a string: 01 stays 01, and "NA" is a text."""
    head = pd.read_csv(path, nrows=1, dtype=object, na_filter=False)
    if not isinstance(head.index, pd.RangeIndex):  # pandas takes the surplus for names of rows
        raise DataError(f"{path} has more cells in row 1 than names in its first line", "put a comma in quotes")
    return {"na_filter": False, "features": Features({str(name): Value("string") for name in head.columns})}


def _load_hub(name: str) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Load `user/name` or `user/name:configuration` from the hub (or its cache)."""
    repository, _, configuration = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, configuration or None)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        remedy = "give an existing file or folder, or a hub name that this machine can reach"
        raise DataError(f"{name} is neither a path nor a data set that loads ({reason})", remedy) from error
    assert isinstance(loaded, DatasetDict)
    found = {s: loaded[n] for s, names in SPLITS.items() for n in names if n in loaded}
    if "train" not in found:
        raise DataError(f"{name} has no train split, only {', '.join(loaded)}", "choose another data set")
    return found, {split: f"{name} ({split})" for split in found}


def _check_utf8(path: Path) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02x}"
                remedy = f"convert it, for example: iconv -f LATIN1 -t UTF-8 {path.name}"
                raise DataError(f"{path} is not UTF-8: {byte} in line {number}", remedy) from error


def _cause(path: Path, error: Exception) -> str:
    """Find the line that a JSON reader stumbled over; its own message names a column or a block."""
    if path.suffix in {".jsonl", ".json"}:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    value = json.loads(line)
                except ValueError as wrong:
                    return f"line {number} is not JSON ({wrong}): {line.strip()[:60]!r}"
                if not isinstance(value, dict):
                    return f"line {number} is not an object: {line.strip()[:60]!r}"
                if half := SURROGATE.search(json.dumps(value, ensure_ascii=False)):
                    return f"line {number} has half a character, \\u{ord(half.group()):x}: {line.strip()[:60]!r}"
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    return str(root).splitlines()[0][:200] if str(root) else type(root).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what `datasets` says while it reads a file: bars of less than a second, errors that we say ourselves."""
    was_on, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if was_on:
            datasets.enable_progress_bars()
