"""The folder of a run in progress: what it does, and the parts of the output that are complete.

A part counts once its line is in the journal, which is written after the part has reached the disk. A run that was
killed, at any moment, continues with the parts that are missing.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import TuneportError
from tuneport.folders import sha256

PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Part:
    """A chunk that was scored and written."""

    chunk: int
    scored: int
    rejected: int
    sha256: str
    """Of the scored rows."""
    rejected_sha256: str

    def output(self, folder: Path) -> Path:
        """Return the file of the scored rows."""
        return folder / f"{self.chunk:09d}.scored"

    def rejects(self, folder: Path) -> Path:
        """Return the file of the rows that could not be scored."""
        return folder / f"{self.chunk:09d}.rejected"

    def check(self, folder: Path) -> None:
        """Raise TuneportError unless its files are there, as they were written."""
        for path, expected in ((self.output(folder), self.sha256), (self.rejects(folder), self.rejected_sha256)):
            if not path.is_file() or sha256(path) != expected:
                raise TuneportError(f"{path} is missing or has changed", f"remove {folder} and start again")


class Journal:
    """The journal of a run."""

    def __init__(self, folder: Path, file: Any, parts: dict[int, Part], is_published: bool) -> None:
        """`file` is open for appending."""
        self.folder = folder
        self.parts = parts
        self.is_published = is_published
        self._file = file

    def add(self, part: Part) -> None:
        """Record a part whose files have reached the disk."""
        self._append(asdict(part))
        self.parts[part.chunk] = part

    def publish(self, staged: Mapping[Path, Path]) -> None:
        """Rename each staged file to its place; a run that is killed meanwhile renames the others when it continues."""
        self._append({PUBLISHED: True})
        self.is_published = True
        move_staged(staged)

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def move_staged(staged: Mapping[Path, Path]) -> None:
    """Rename each staged file that is still there."""
    for source, target in staged.items():
        if source.exists():
            source.replace(target)


def folder_of(out: Path) -> Path:
    """Return the folder of the run that writes `out`."""
    return out.with_name(f".{out.name}.scoring")


@contextlib.contextmanager
def open_journal(out: Path, job: Mapping[str, str], *, overwrite: bool) -> Iterator[Journal]:
    """Begin the run that writes `out`, or continue it if its `job` is the same.

    Raises TuneportError if another process is writing `out`, if the run in progress is another job, unless
    `overwrite` says to start again, and if the folder cannot be written.
    """
    folder = folder_of(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise TuneportError(f"{out} cannot be written ({error.strerror})", "choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TuneportError(f"another process is writing {out}", "wait for it, or choose another --out") from error
        path = folder / "journal.jsonl"
        lines, size = _read(path)
        if lines and lines[0] != job:
            if not overwrite:
                raise _other_job(out, folder, lines[0], job)
            lines, size = [], 0
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(size)
            file.seek(size)
            parts = {line["chunk"]: Part(**line) for line in lines[1:] if PUBLISHED not in line}
            journal = Journal(folder, file, parts, any(PUBLISHED in line for line in lines))
            if not lines:
                journal._append(dict(job))
            try:
                yield journal
            finally:
                if journal.is_published or not journal.parts:
                    shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the complete lines of a journal and their size; the last line may have been cut."""
    lines: list[dict[str, Any]] = []
    size = 0
    if path.is_file():
        for raw in path.read_bytes().splitlines(keepends=True):
            try:
                line = json.loads(raw)
            except ValueError:
                break
            if not raw.endswith(b"\n"):
                break
            lines.append(line)
            size += len(raw)
    return lines, size


def _other_job(out: Path, folder: Path, found: Mapping[str, Any], job: Mapping[str, str]) -> TuneportError:
    changed = ", ".join(name for name in job if found.get(name) != job[name])
    return TuneportError(
        f"{out} was begun with another {changed}",
        f"give the same command to continue, or --overwrite to start again (the run is in {folder})",
    )
