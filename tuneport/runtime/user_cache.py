"""The user's folder for what takes long to compute and belongs to this host."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

CACHE = "XDG_CACHE_HOME"


def cache_folder(*parts: str) -> Path:
    """Return a folder of tuneport's cache, which may not exist: below XDG_CACHE_HOME, by default ~/.cache."""
    if named := os.environ.get(CACHE):
        return Path(named, "tuneport", *parts)
    try:
        home = Path.home()
    except RuntimeError:  # a container's user may have none; this is what Docker sets
        home = Path("/")
    return home.joinpath(".cache", "tuneport", *parts)


def fill_folder(folder: Path, files: Iterable[Path]) -> None:
    """Create a folder with copies of files, whole or not at all; one that exists stays as it is. Raises OSError.

    Several processes may do so at once.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        filled = Path(partial) / folder.name
        filled.mkdir()
        for file in files:
            shutil.copyfile(file, filled / file.name)
        try:
            filled.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise


def write_file(file: Path, content: bytes) -> None:
    """Write a file, whole or not at all. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".partial-") as partial:
        whole = Path(partial) / file.name
        whole.write_bytes(content)
        whole.replace(file)
