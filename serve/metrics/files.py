"""The files in which several workers share their metrics, with disk space that is really there."""

import os
from pathlib import Path
from typing import Any

import psutil


class ReservingFile:
    """A file whose growth takes blocks on the disk at once.

    prometheus_client maps its files into memory. A process that writes into a mapped hole of a file ends with SIGBUS
    if the disk has become full; here the growth fails with an OSError instead.
    """

    def __init__(self, name: str, mode: str) -> None:
        """Open the file as `open` does."""
        self._file = open(name, mode)  # prometheus_client closes it

    def truncate(self, size: int) -> int:
        """Grow to `size` bytes; raises OSError if the disk lacks them."""
        os.posix_fallocate(self._file.fileno(), 0, size)
        return size

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on."""
        return getattr(self._file, name)


def open_file(name: str, mode: str) -> Any:
    """Open a file of prometheus_client's, those that it writes as a `ReservingFile`."""
    return open(name, mode) if mode == "rb" else ReservingFile(name, mode)


def reserve_disk_space() -> None:
    """Make prometheus_client open its files so."""
    from prometheus_client import mmap_dict

    mmap_dict.open = open_file  # type: ignore[attr-defined]


def remove_of_ended_processes(folder: Path) -> None:
    """Remove the files of gauges whose values end with the process that has set them."""
    for file in folder.glob("gauge_live*_*.db"):
        if not psutil.pid_exists(int(file.stem.rpartition("_")[2])):
            file.unlink(missing_ok=True)
