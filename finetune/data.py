"""Labelled data: JSONL, CSV and Parquet files and hub names, read through `datasets`, checked row by row.

Everything stays on disk as Arrow, so memory does not grow with the number of rows.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, DatasetDict

from export.files import DataError, digest
from export.manifest import DataSource

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Split → names that its file may have."""
SHOWN_PROBLEMS = 5
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
    with _quiet():
        loaded, files = _load(source)
    splits = {name: _select(rows, files[name], columns, required, optional) for name, rows in loaded.items()}
    splits = _complete(splits, source, seed)
    record = DataSource(
        source=str(Path(source).resolve()) if Path(source).exists() else source,
        columns=dict(columns),
        seed=seed,
        fingerprint=digest([_fingerprint(splits[name]) for name in sorted(splits)]),
        rows={name: len(rows) for name, rows in splits.items()},
    )
    whole = files.get("train") or files["all"]
    return Data(splits, record, {name: files.get(name, f"{whole} ({name})") for name in splits})


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


def duplicates_across_splits(data: Data) -> list[str]:
    """Count rows of train that stand in another split, too, and so flatter its metrics; a warning for each split."""
    hashes = {
        name: {hash(_content(row)) for _, row in rows_of(rows)} for name, rows in data.splits.items() if name != "train"
    }
    found = dict.fromkeys(hashes, 0)
    for _, row in rows_of(data.splits["train"]):
        for name, known in hashes.items():
            found[name] += hash(_content(row)) in known
    return [
        f"{count} of train's {len(data.splits['train'])} rows stand in {data.files[name]}, too"
        for name, count in found.items()
        if count
    ]


def _content(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)


def _load(source: str) -> tuple[dict[str, Dataset], dict[str, str]]:
    """Return the splits as they are and what to call each in a message."""
    path = Path(source)
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
    # A text "NA" or "null" in a CSV is a text, not an absent value.
    options: dict[str, Any] = {"keep_default_na": False} if path.suffix == ".csv" else {}
    try:
        rows = datasets.load_dataset(FORMATS[path.suffix], data_files=str(path), split="train", **options)
    except Exception as error:  # datasets wraps pyarrow's and pandas' exceptions in its own
        if "corresponds to no data" in str(error):
            raise DataError(f"{path} has no rows", "give a file with rows") from error
        raise DataError(f"{path} cannot be read: {_cause(path, error)}", "correct the file") from error
    if not len(rows):
        raise DataError(f"{path} has no rows", "give a file with rows")
    return rows


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


def _select(
    rows: Dataset, file: str, columns: Mapping[str, str], required: Sequence[str], optional: Sequence[str]
) -> Dataset:
    """Keep the task's columns under the task's names; label numbers of the hub become label names."""
    wanted = [*required, *optional]
    if unknown := [name for name in columns if name not in wanted]:
        raise DataError(f"--columns names {unknown}, and the task knows {wanted}", "write task-column=your-column")
    names = {name: columns.get(name, name) for name in wanted}
    absent = [names[name] for name in required if names[name] not in rows.column_names]
    absent += [columns[name] for name in optional if name in columns and columns[name] not in rows.column_names]
    if absent:
        example = f"--columns {wanted[0]}=YOUR_COLUMN"
        raise DataError(f"{file} has no column {absent}, it has {rows.column_names}", f"rename with {example}")
    kept = {name: column for name, column in names.items() if column in rows.column_names}
    for name, column in kept.items():
        rows = _with_label_names(rows, column, f"{file}: {name} names")
    return rows.select_columns(list(kept.values())).rename_columns({c: n for n, c in kept.items() if c != n})


def _with_label_names(rows: Dataset, column: str, description: str) -> Dataset:
    """Replace the hub's label numbers by their names, in a column of numbers or of lists of numbers."""
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        numbers = rows.cast_column(column, datasets.Value("int64"))
        return numbers.map(lambda row: {column: _label_name(feature, row[column])}, desc=description)
    inner = getattr(feature, "feature", None)
    if isinstance(inner, ClassLabel):
        numbers = rows.cast_column(column, datasets.List(datasets.Value("int64")))
        return numbers.map(
            lambda row: {column: None if row[column] is None else [_label_name(inner, n) for n in row[column]]},
            desc=description,
        )
    return rows


def _label_name(feature: ClassLabel, number: int | None) -> str | None:
    return None if number is None or number < 0 else str(feature.int2str(number))


def _complete(splits: dict[str, Dataset], source: str, seed: int) -> dict[str, Dataset]:
    """Make the splits that are not there."""
    if "all" in splits:
        rows = splits["all"]
        if len(rows) < 10:
            raise DataError(
                f"{source} has {len(rows)} rows, too few to split", "give at least 10, or a folder of splits"
            )
        first = rows.train_test_split(test_size=0.2, seed=seed)
        rest = first["test"].train_test_split(test_size=0.5, seed=seed)
        return {"train": first["train"], "validation": rest["train"], "test": rest["test"]}
    if "validation" in splits:
        return splits
    if len(splits["train"]) < 10:
        raise DataError(
            f"{source} has no validation file and too few rows to take it from train", "add validation rows"
        )
    parts = splits["train"].train_test_split(test_size=0.1, seed=seed)
    return {**splits, "train": parts["train"], "validation": parts["test"]}


def _fingerprint(rows: Dataset) -> str:
    sha = hashlib.sha256()
    for _, row in rows_of(rows):
        sha.update(_content(row).encode(errors="surrogatepass"))
        sha.update(b"\n")
    return sha.hexdigest()


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
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    return str(root).splitlines()[0][:200] if str(root) else type(root).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars of reading a file, which last less than a second."""
    was_on = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if was_on:
            datasets.enable_progress_bars()
