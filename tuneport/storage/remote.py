"""A place that a URL names, through fsspec: a folder (a path or file://), or an object store such as s3://."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import TuneportError
from tuneport.extras import require_extras
from tuneport.folders import full_disk_is_an_error

S3 = ("s3", "s3a")
"""Protocols that go through obstore."""
MAX_RETRIES = 3
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""Variables with the address of an S3-style store."""


@dataclass(frozen=True)
class Remote:
    """A folder or an object, and the file system that holds it."""

    url: str
    """As the user wrote it."""
    path: str
    """Its name within the file system."""
    files: Any
    """fsspec's file system."""

    @property
    def local(self) -> Path | None:
        """Return the path of a place on this machine."""
        return Path(self.path) if "file" in self.files.protocol else None

    def at(self, name: str) -> str:
        """Return the full name of a file below this place."""
        return f"{self.path}/{name}"

    def names(self) -> set[str]:
        """List the files below this place, relative to it; empty where there is none."""
        self.files.invalidate_cache()
        with self.errors("read"):
            found = self.files.find(self.path) if self.files.exists(self.path) else []
        return {str(name)[len(self.path) + 1 :] for name in found}

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of a full name."""
        self.files.invalidate_cache()
        with self.errors("read"):
            return bool(self.files.exists(name))

    def upload(self, source: Path, target: str) -> None:
        """Write a file to a full name."""
        with full_disk_is_an_error(Path(target)), self.errors("written"):
            if self.local is not None:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
            self.files.put_file(str(source), target)

    def download(self, source: str, target: Path) -> None:
        """Write a file of a full name into a folder, which is created."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with full_disk_is_an_error(target), self.errors("read"):
            self.files.get_file(source, str(target))

    def remove(self, name: str) -> None:
        """Remove a file that may be there."""
        with contextlib.suppress(Exception):
            self.files.rm_file(name)

    @contextlib.contextmanager
    def errors(self, verb: str) -> Iterator[None]:
        """Turn what storage libraries raise into one line. Their exceptions have no class in common."""
        try:
            yield
        except TuneportError:
            raise
        except FileNotFoundError as error:
            raise TuneportError(f"{self.url} is not there", "correct the URL, or push it first") from error
        except Exception as error:
            if self.local is not None and isinstance(error, OSError):
                raise  # of a full disk, among others, which is understood elsewhere
            reason = (str(error).splitlines() or [""])[0][:200]
            remedy = "check the address, the bucket and the credentials (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …)"
            raise TuneportError(f"{self.url} cannot be {verb} ({type(error).__name__}: {reason})", remedy) from error


def open_remote(url: str) -> Remote:
    """Open the place that a URL names; raises TuneportError for a protocol that is unknown or not installed."""
    import fsspec

    protocol = url.partition("://")[0] if "://" in url else "file"
    if protocol in S3:
        require_extras(f"{protocol}://", "s3")
    try:
        options = _s3_options(protocol) if protocol in S3 else {}
        files, path = fsspec.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        known = "give a path, file://… or s3://…, or install the package that fsspec needs for it"
        raise TuneportError(f"{url} cannot be opened ({str(error).splitlines()[0]})", known) from error
    return Remote(url, str(path).rstrip("/"), files)


def _s3_options(protocol: str) -> dict[str, Any]:
    """Let obstore serve a protocol of fsspec's; returns its options."""
    from obstore.fsspec import register

    register(protocol)
    is_plain = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
    return {"client_options": {"allow_http": is_plain}, "retry_config": {"max_retries": MAX_RETRIES}}
