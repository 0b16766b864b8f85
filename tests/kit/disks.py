"""A real file system of a few kilobytes."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def disk_of(kib: int, folder: Path) -> Iterator[Path]:
    """Mount one in a folder for the length of a block; skips the test where that is not allowed."""
    disk = folder / "disk"
    disk.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounting.returncode:
        pytest.skip(f"no right to mount here: {mounting.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
