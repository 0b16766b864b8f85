"""Finds the splits of a source: a file, a folder of files, a folder of `save_to_disk`, or a data set of the hub."""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict

from tuneport.data.files import (
    CONVERSIONS,
    FORMATS,
    PARQUET,
    SHARD,
    LoadedSplit,
    load_file,
    load_parquet,
    root_message,
    suffix_of,
    unknown_format,
)
from tuneport.errors import DataError

USUAL_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Split → names of its file, or of the data set's split."""
SHOWN_NAMES = 10
"""Files or splits that a message lists."""


@dataclass(frozen=True)
class SplitNames:
    """How a source names its splits."""

    chosen: Mapping[str, str]
    """Split → its name, where the user says so."""
    needs_train: bool = True

    def of(self, split: str) -> tuple[str, ...]:
        """Return the names that a split may have."""
        return (self.chosen[split],) if split in self.chosen else USUAL_NAMES[split]

    def check(self, source: str, found: Iterable[str], there: Iterable[str]) -> None:
        """Raise a DataError if train is missing, or a split that the user named; `there` is what the source has.

        Where train is not needed, any split will do.
        """
        found = set(found)
        needed = ("train",) if self.needs_train or not found else ()
        for split in dict.fromkeys((*needed, *self.chosen)):
            if split not in found:
                listed = list(there)
                more = f" and {len(listed) - SHOWN_NAMES} more" if len(listed) > SHOWN_NAMES else ""
                has = f", only {', '.join(listed[:SHOWN_NAMES])}{more}" if listed else ", and no file that can be read"
                wanted = f"{self.chosen[split]!r} for {split}" if split in self.chosen else f"{split} file or split"
                remedy = f"choose one with --splits {split}=NAME, or add {split}.jsonl; files may be {FORMATS}"
                raise DataError(f"{source} has no {wanted}{has}", remedy)

    def refuse(self, source: str) -> None:
        """Raise a DataError if the user named splits of a source that has none."""
        if self.chosen:
            raise DataError(f"{source} has no splits, and --splits names some", "leave out --splits")


def load_splits(
    source: str, wanted: Collection[str] | None, chosen: Mapping[str, str], *, needs_train: bool = True
) -> dict[str, LoadedSplit]:
    """Load the splits of a source; a single file, or a data set without splits, is the split `all`.

    `wanted` are the columns to read, as the source calls them, or None for all; `chosen` maps splits to their names in
    the source where these are not the usual ones. Raises DataError for a source that cannot be read.
    """
    if unknown := [name for name in chosen if name not in USUAL_NAMES]:
        raise DataError(f"--splits names {unknown}", f"name {', '.join(USUAL_NAMES)}: --splits test=YOUR_SPLIT")
    with _silenced():
        return _load(Path(source), source, wanted, SplitNames(chosen, needs_train))


def _load(path: Path, source: str, wanted: Collection[str] | None, names: SplitNames) -> dict[str, LoadedSplit]:
    if path.is_file():
        names.refuse(source)
        return {"all": load_file(path, wanted)}
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _load_saved(path, names)
    if path.is_dir():
        files = {split: found for split in USUAL_NAMES if (found := _find_files(path, names.of(split)))}
        names.check(source, files, sorted(file.name for file in path.iterdir() if suffix_of(file.name)))
        return {split: _load_files(found, wanted) for split, found in files.items()}
    if suffix_of(path.name) or source.startswith((".", "/", "~")):
        raise DataError(f"{source} does not exist", "give a file, a folder with a train file, or a hub name")
    return _load_hub(source, names)


def _load_files(files: list[Path], wanted: Collection[str] | None) -> LoadedSplit:
    return load_file(files[0], wanted) if len(files) == 1 else load_parquet(files, wanted)


def _find_files(folder: Path, stems: Collection[str]) -> list[Path]:
    """Find the one file of a split, or all its shards in Parquet; [] if there is none, a DataError for several."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and suffix_of(file.name)]
    found = [file for file in files if {file.name, _stem(file)} & set(stems)]
    shards = [file for file in files if (match := SHARD.fullmatch(_stem(file))) and match[1] in stems]
    shards = [file for file in shards if suffix_of(file.name) == PARQUET]
    names = [file.name for file in found] + list(dict.fromkeys(SHARD.sub(r"\1-*-of-\3", file.name) for file in shards))
    if len(names) > 1:
        both = " and ".join(names)
        raise DataError(f"{folder} has {both} for one split", "keep one of them, or choose one with --splits")
    _check_shards(folder, shards)
    others = [file for file in folder.iterdir() if file.suffix.lower() in CONVERSIONS and file.stem in stems]
    if others and not files:
        raise unknown_format(min(others))
    return found or shards


def _check_shards(folder: Path, shards: Sequence[Path]) -> None:
    """Raise a DataError if a shard is missing."""
    if not shards:
        return
    matches = [match for file in shards if (match := SHARD.fullmatch(_stem(file)))]
    count = int(matches[0][3])
    if missing := sorted({*range(count)} - {int(match[2]) for match in matches}):
        example = f"{matches[0][1]}-{missing[0]:05}-of-{count:05}{PARQUET}"
        raise DataError(f"{folder} has {len(shards)} of {count} files of {matches[0][1]}", f"add {example}")


def _stem(file: Path) -> str:
    """Return the name of a file without the suffix that tells its format."""
    return file.name[: -len(suffix_of(file.name) or "")]


def _load_saved(path: Path, names: SplitNames) -> dict[str, LoadedSplit]:
    """Load what `save_to_disk` wrote: one data set, or several splits."""
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"{path} cannot be read: {root_message(error)}", "save it again with save_to_disk") from error
    if isinstance(loaded, DatasetDict):
        return _select_splits(loaded, path.name, names)
    names.refuse(str(path))
    return {"all": _loaded_split(loaded, path.name)}


def _load_hub(name: str, names: SplitNames) -> dict[str, LoadedSplit]:
    """Load `user/name` or `user/name:configuration` from the hub or its cache."""
    repository, _, configuration = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, configuration or None)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        remedy = "give an existing file or folder, or a hub name that this machine can reach"
        raise DataError(f"{name} is neither a path nor a data set that loads ({reason})", remedy) from error
    assert isinstance(loaded, DatasetDict)
    return _select_splits(loaded, name, names)


def _select_splits(loaded: DatasetDict, source: str, names: SplitNames) -> dict[str, LoadedSplit]:
    found = {split: name for split in USUAL_NAMES for name in reversed(names.of(split)) if name in loaded}
    names.check(source, found, loaded)
    return {split: _loaded_split(loaded[name], f"{source} ({name})") for split, name in found.items()}


def _loaded_split(rows: Dataset, name: str) -> LoadedSplit:
    if not len(rows):
        raise DataError(f"{name} has no rows", "give data with rows")
    return LoadedSplit(rows, rows.column_names, name)


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
