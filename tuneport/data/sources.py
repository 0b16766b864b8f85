"""Loads JSONL, CSV and Parquet files and data sets of the hub, each as a data set on disk."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
from datasets import Dataset, DatasetDict, Features, Value

from tuneport.errors import DataError

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Split → names of its file, or of the hub's split."""
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 surrogate pair, which UTF-8 cannot encode."""


def load_splits(source: str) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Load the splits of a source, and the name of each in messages; a single file is the split `all`.

    Raises DataError for a source that cannot be read.
    """
    with _silenced():
        return _load(Path(source), source)


def _load(path: Path, source: str) -> tuple[dict[str, Dataset], dict[str, str]]:
    if path.is_file():
        return {"all": _load_file(path)}, {"all": path.name}
    if path.is_dir():
        files = {split: file for split, names in SPLITS.items() if (file := _find_file(path, names))}
        if "train" not in files:
            raise DataError(f"{path} has no train file", f"add train.jsonl, or any of {', '.join(FORMATS)}")
        return {split: _load_file(file) for split, file in files.items()}, {s: f.name for s, f in files.items()}
    if path.suffix in FORMATS or source.startswith((".", "/", "~")):
        raise DataError(f"{source} does not exist", "give a file, a folder with a train file, or a hub name")
    return _load_hub(source)


def _find_file(folder: Path, names: Iterable[str]) -> Path | None:
    """Find the one file of a split; None if there is none, a DataError if there are several."""
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
        options = _csv_options(path) if path.suffix == ".csv" else {}
        rows = datasets.load_dataset(FORMATS[path.suffix], data_files=str(path), split="train", **options)
    except DataError:
        raise
    except Exception as error:  # datasets raises its own exceptions, pyarrow's and pandas'
        if "corresponds to no data" in str(error):
            raise DataError(f"{path} has no rows", "give a file with rows") from error
        raise DataError(f"{path} cannot be read: {_find_cause(path, error)}", "correct the file") from error
    if not len(rows):
        raise DataError(f"{path} has no rows", "give a file with rows")
    return rows


def _csv_options(path: Path) -> dict[str, Any]:
    """Return the options that read every cell of a CSV as a string: 01 stays 01, and "NA" is a text."""
    head = pd.read_csv(path, nrows=1, dtype=object, na_filter=False)
    if not isinstance(head.index, pd.RangeIndex):  # pandas reads surplus cells as an index
        raise DataError(f"{path} has more cells in row 1 than names in its first line", "put a comma in quotes")
    return {"na_filter": False, "features": Features({str(name): Value("string") for name in head.columns})}


def _load_hub(name: str) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Load `user/name` or `user/name:configuration` from the hub or its cache."""
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
    """Raise a DataError that names the first byte which is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02x}"
                remedy = f"convert it, for example: iconv -f LATIN1 -t UTF-8 {path.name}"
                raise DataError(f"{path} is not UTF-8: {byte} in line {number}", remedy) from error


def _find_cause(path: Path, error: Exception) -> str:
    """Find the line of a JSON file that caused an error; the reader's own message names a column or a block."""
    if path.suffix in {".jsonl", ".json"}:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    value = json.loads(line)
                except ValueError as json_error:
                    return f"line {number} is not JSON ({json_error}): {line.strip()[:60]!r}"
                if not isinstance(value, dict):
                    return f"line {number} is not an object: {line.strip()[:60]!r}"
                if surrogate := SURROGATE.search(json.dumps(value, ensure_ascii=False)):
                    code = f"\\u{ord(surrogate.group()):x}"
                    return f"line {number} has an unpaired surrogate, {code}: {line.strip()[:60]!r}"
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    return str(root).splitlines()[0][:200] if str(root) else type(root).__name__


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silence the progress bars and the log of `datasets` while it reads a file; errors are raised anyway."""
    had_bars, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()
