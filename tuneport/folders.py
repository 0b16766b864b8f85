"""Hashes, and output folders that appear whole or not at all."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tuneport.errors import TuneportError

DISK_REMEDY = "free some space or choose another disk; nothing was left behind"
TORCH_WRITE_FAILED = "inline_container.cc"
"""What torch.save names, without the system's words, where a file cannot be written to its end."""


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """Return the hex SHA-256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """Write one JSON value a line, UTF-8."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def git_commit(folder: Path) -> str | None:
    """Return the commit that a folder is at, with `+changes` when files differ from it; None outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def check_out(out: Path, *, marker: str, overwrite: bool, given_as: str = "--out") -> None:
    """Refuse an output folder that exists, or cannot be created or replaced, before any work is done.

    Even `overwrite` replaces only a folder that holds `marker`, the file that such a folder always has: a
    mistyped `--out ~` must not cost anyone their home. The remedy of the TuneportError is another value of `given_as`.
    """
    another = f"choose another {given_as}"
    if not _exists(out, another):
        _check_parent(out, "created", another)
        return
    if out.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise TuneportError(f"{out} is the folder that you are in", "choose a new folder within it")
    if not overwrite:
        raise TuneportError(f"{out} exists", f"{another}, or pass --overwrite to replace it")
    if not out.is_dir() or (not (out / marker).is_file() and any(out.iterdir())):
        raise TuneportError(
            f"{out} holds no {marker}, so it was not written by this command",
            f"{another}; --overwrite replaces only what the same command wrote",
        )
    _check_parent(out, "replaced", another)


def _exists(out: Path, remedy: str) -> bool:
    try:
        return out.exists()
    except OSError as error:
        raise TuneportError(f"{out} cannot be created ({error.strerror})", remedy) from error


def _check_parent(out: Path, what: str, remedy: str) -> None:
    """Refuse `out` if its parent, or the nearest folder above that exists, takes no new folder."""
    problem, place = f"{out} cannot be {what}", out.resolve()  # a link stays, and what it points to is replaced
    parent = next(folder for folder in place.parents if folder.exists())
    if not parent.is_dir():
        raise TuneportError(f"{problem}: {parent} is a file", remedy)
    if place.is_mount():
        raise TuneportError(f"{problem}: it is a mount point", "choose a folder within it")
    check_writable(parent, problem, remedy)


def check_writable(folder: Path, problem: str, remedy: str) -> None:
    """Raise a TuneportError of `problem` and `remedy` if nothing can be created in a folder.

    It is tried, because permissions do not tell: a file system may be mounted read-only, or be full.
    """
    try:
        with full_disk_is_an_error(folder):
            os.rmdir(tempfile.mkdtemp(prefix=".tuneport-", dir=folder))
    except OSError as error:
        raise TuneportError(f"{problem} ({error.strerror})", remedy) from error


@contextlib.contextmanager
def new_folder(out: Path, *, marker: str, overwrite: bool = False, given_as: str = "--out") -> Iterator[Path]:
    """Yield a temporary sibling of `out` that becomes `out` when the block ends, and vanishes if it fails.

    Readers see the old folder or the new one, whole. Leftovers of a process that was killed are removed by
    the next call. A full disk is a TuneportError, and so is a folder that cannot be moved; errors of the block name
    `out` in place of the temporary folder.
    """
    out = out.resolve()
    _remove_leftovers(out)
    check_out(out, marker=marker, overwrite=overwrite, given_as=given_as)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise TuneportError(f"{out} cannot be created ({error.strerror})", f"choose another {given_as}") from error
    try:
        with errors_name(out, partial), full_disk_is_an_error(out):
            yield partial
            try:
                _publish(partial, out)
            except OSError as error:
                if _no_space(error):
                    raise
                problem = f"{out} cannot be written ({error.strerror})"
                raise TuneportError(problem, f"choose another {given_as}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def errors_name(given: Path | str, temporary: Path) -> Iterator[None]:
    """Let errors name what the user gave in place of a temporary folder or file."""
    try:
        yield
    except TuneportError as error:
        error.rename(str(temporary), str(given))
        raise


@contextlib.contextmanager
def full_disk_is_an_error(out: Path, remedy: str = DISK_REMEDY) -> Iterator[None]:
    """Turn the many shapes of "no space left" into one line, which ends with `remedy`."""
    try:
        yield
    except Exception as error:
        if _no_space(error):
            raise TuneportError(f"no space left on the disk of {out}", remedy) from error
        raise


def _no_space(error: BaseException) -> bool:
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in codes:
        return True
    # safetensors and onnx report a failed write in their own exceptions, with the system's words inside.
    return any(os.strerror(code) in str(error) for code in codes) or TORCH_WRITE_FAILED in str(error)


def _publish(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    aside = out.with_name(f".{out.name}.replaced-{os.getpid()}")
    out.rename(aside)
    try:
        partial.rename(out)
    except BaseException:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(out: Path) -> None:
    """Remove what killed processes left beside `out`; a folder that one had moved aside comes back."""
    for kind in ("partial", "replaced"):
        for sibling in out.parent.glob(f".{glob.escape(out.name)}.{kind}-*"):
            pid = sibling.name.rpartition("-")[2]
            if not pid.isdigit() or (int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()):
                continue
            if kind == "replaced" and not out.exists():
                sibling.rename(out)
            else:
                shutil.rmtree(sibling, ignore_errors=True)
