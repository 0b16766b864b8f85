"""Reads labelled data as splits with a task's columns; `tuneport.data.sources` finds and loads them.

Rows stay on disk as Arrow, so memory does not grow with their number.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from tuneport.data.columns import select_columns, source_columns, suggest_renaming
from tuneport.data.files import LoadedSplit
from tuneport.data.rows import Problems, canonical_row, numbered_rows
from tuneport.data.sources import load_splits
from tuneport.data.splits import complete_splits
from tuneport.data.targets import TARGET_COLUMNS, flags_to_indices, is_unlabelled
from tuneport.data.textfile import GZIP
from tuneport.errors import DataError
from tuneport.folders import digest
from tuneport.schema.run import DataSource


class MissingColumns(DataError):
    """Columns of the task that a file does not have."""

    def __init__(self, problem: str, remedy: str, names: Sequence[str]) -> None:
        """Keep the `names` of the columns."""
        super().__init__(problem, remedy)
        self.names = names

    def are_among(self, targets: Collection[str]) -> bool:
        """Whether nothing but columns of targets is missing, so that the data can be read as unlabelled."""
        return set(self.names) <= set(targets)


@dataclass(frozen=True)
class Data:
    """The splits, with the task's column names, and the record of their source."""

    splits: dict[str, Dataset]
    source: DataSource
    files: dict[str, str] = field(default_factory=dict)
    """Split → its name in messages: that of its file."""
    columns: tuple[str, ...] = ()
    """All columns that train has in the source, under the source's names."""
    warnings: tuple[str, ...] = ()
    drawn: frozenset[str] = frozenset()
    """Splits that the source does not have, drawn from others."""


@dataclass(frozen=True)
class Files:
    """The splits that a source has, before missing ones are drawn; a single file is the split `all`."""

    splits: dict[str, Dataset]
    names: dict[str, str]
    """Split → its name in messages."""
    columns: dict[str, list[str]]
    """Split → all columns of the source."""
    warnings: tuple[str, ...]


def read_data(
    source: str,
    *,
    columns: Mapping[str, str],
    required: Sequence[str],
    optional: Sequence[str],
    seed: int,
    splits: Mapping[str, str] | None = None,
    hidden: Collection[str] | None = None,
) -> Data:
    """Read every split with the task's columns, renamed to the task's names.

    `source` is a folder, a file or a name on the hub; `columns` maps columns of the task to those of the source, and
    `splits` names of splits to those of the source. A single file is split 80/10/10 with the seed; without a validation
    split a tenth of train becomes it. A test split without targets is left out. Columns of
    targets may be `hidden`: the data then counts as unlabelled, trains no model, and a single file stays one split,
    `all`. Raises DataError for a source that cannot be read, a
    missing column, or a file without rows.
    """
    if hidden is not None:
        required, optional = ([name for name in names if name not in hidden] for names in (required, optional))
        columns = {name: column for name, column in columns.items() if name not in hidden}
    files = read_files(
        source, columns=columns, required=required, optional=optional, splits=splits, needs_train=hidden is None
    )
    completed = files.splits if hidden is not None else complete_splits(files.splits, source, seed)
    record = DataSource(
        source=str(Path(source).resolve()) if Path(source).exists() else source,
        columns=dict(columns),
        splits=dict(splits or {}),
        seed=seed,
        fingerprint=digest([fingerprint(completed[name]) for name in sorted(completed)]),
        rows={name: len(rows) for name, rows in completed.items()},
        unlabelled=hidden is not None,
    )
    divided = next(name for name in ("train", "all", *files.names) if name in files.names)  # what others are drawn from
    names = {name: files.names.get(name, f"{files.names[divided]} ({name})") for name in completed}
    drawn = frozenset(completed) - frozenset(files.splits)
    return Data(completed, record, names, tuple(files.columns[divided]), files.warnings, drawn)


def read_files(
    source: str,
    *,
    columns: Mapping[str, str],
    required: Sequence[str],
    optional: Sequence[str],
    splits: Mapping[str, str] | None = None,
    needs_train: bool = True,
) -> Files:
    """Read the splits that the source has; raises DataError as `read_data` does, for all files at once."""
    names = source_columns(columns, required, optional)
    loaded = load_splits(source, list(names.values()), splits or {}, needs_train=needs_train)
    warnings = []
    if {"train", "test"} <= loaded.keys() and is_unlabelled(loaded["test"], loaded["train"], names):
        warnings.append(f"{loaded.pop('test').file} has no targets, so there is no test split")
    _check_columns(loaded, names, [name for name in names if name in required or name in columns])
    problems = Problems("correct these rows, or rename columns with --columns")
    selected = {split: select_columns(each, names, problems) for split, each in loaded.items()}
    problems.raise_if_any()
    return Files(
        flags_to_indices(selected),
        {split: each.file for split, each in loaded.items()},
        {split: each.columns for split, each in loaded.items()},
        tuple(warnings),
    )


def reread(
    record: DataSource, *, required: Sequence[str], optional: Sequence[str], targets: Collection[str] = ()
) -> Data:
    """Read the data of a run or an artifact again; raises DataError if it is gone or has changed.

    `targets` are the columns that are hidden if the data was.
    """
    remedy = "restore it, or give data of the same task with --data"
    try:
        data = read_data(
            record.source,
            columns=record.columns,
            required=required,
            optional=optional,
            seed=record.seed,
            splits=record.splits,
            hidden=targets if record.unlabelled else None,
        )
    except DataError as error:
        raise DataError(f"the data that was used before cannot be read: {error.problem}", remedy) from error
    if data.source.fingerprint != record.fingerprint:
        raise DataError(f"{record.source} has changed since it was used", remedy)
    return data


def _check_columns(loaded: Mapping[str, LoadedSplit], names: Mapping[str, str], needed: Sequence[str]) -> None:
    """Raise MissingColumns, which names those of every file, and the columns that it has."""
    missing = {split: _missing(names, needed, each.columns) for split, each in loaded.items()}
    problems = [
        f"{loaded[split].file} has no column {' and no '.join(repr(names[name]) for name in absent)}, "
        f"only {', '.join(map(repr, loaded[split].columns))}{_describe_delimiter(loaded[split])}"
        for split, absent in missing.items()
        if absent
    ]
    if problems:
        all_absent = [name for absent in missing.values() for name in absent]
        first = all_absent[0]
        if headless := [each for split, each in loaded.items() if missing[split] and not each.has_header]:
            wanted = dict.fromkeys([*needed, *(name for name in TARGET_COLUMNS if name in names)][: len(needed) + 1])
            example = (headless[0].delimiter or ",").join(names[name] for name in wanted)
            remedy = f"the first row looks like data: write a line with the columns' names above it, such as {example}"
            raise DataError("; ".join(problems), remedy)
        split = next(split for split, absent in missing.items() if absent)
        if loaded[split].file.lower().removesuffix(GZIP).endswith(".txt"):
            remedy = ".txt is read as CoNLL text: give a table the suffix .tsv or .csv"
        else:
            remedy = f"rename with {suggest_renaming(first, names, loaded[split].columns)}"
        raise MissingColumns("; ".join(problems), remedy, all_absent)


def _missing(names: Mapping[str, str], needed: Sequence[str], there: Sequence[str]) -> list[str]:
    """Return the needed columns that are not there; where none is needed but none is there either, all of them."""
    absent = [name for name, column in names.items() if column not in there]
    return [name for name in absent if name in needed] or (absent if len(absent) == len(names) else [])


def _describe_delimiter(split: LoadedSplit) -> str:
    return f" (separated by {split.delimiter!r})" if split.delimiter else ""


def fingerprint(rows: Dataset) -> str:
    """Hash the rows of a split, in order."""
    sha = hashlib.sha256()
    for _, row in numbered_rows(rows):
        sha.update(canonical_row(row).encode(errors="surrogatepass"))
        sha.update(b"\n")
    return sha.hexdigest()
