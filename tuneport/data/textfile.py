"""Opens text files, compressed or not, and names the first byte that is not UTF-8."""

import contextlib
import gzip
import io
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tuneport.errors import DataError

GZIP = ".gz"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@contextlib.contextmanager
def open_text(path: Path, newline: str | None = None, errors: str = "strict") -> Iterator[IO[str]]:
    """Open a file as UTF-8, with or without a byte order mark.

    Raises DataError while it is read if it is not UTF-8; with `errors="surrogateescape"` wrong bytes become surrogates.
    """
    try:
        with (
            _open_bytes(path) as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", newline=newline, errors=errors) as file,
        ):
            yield file
    except UnicodeDecodeError as error:
        raise _encoding_error(path) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a complete gzip file ({error})", "compress it again") from error


def _open_bytes(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == GZIP else path.open("rb")  # type: ignore[return-value]


def _encoding_error(path: Path) -> DataError:
    """Return the error that names the first byte which is not UTF-8, and how to convert the file."""
    with _open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith(UTF16_MARKS):
                return DataError(f"{path} is UTF-16, and UTF-8 is expected", f"convert it: {_iconv(path, 'UTF-16')}")
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02x}"
                remedy = f"convert it, from Windows' encoding for example: {_iconv(path, 'WINDOWS-1252')}"
                return DataError(f"{path} is not UTF-8: {byte} in line {number}", remedy)
    return DataError(f"{path} is not UTF-8", "convert it")


def _iconv(path: Path, encoding: str) -> str:
    """Return a shell command that writes the file in UTF-8 beside itself."""
    stem, _, suffix = path.name.removesuffix(GZIP).rpartition(".")
    source, target = shlex.quote(path.name), shlex.quote(f"{stem}-utf8.{suffix}")
    convert = f"iconv -f {encoding} -t UTF-8"
    return (
        f"gunzip -c {source} | {convert} > {target}" if path.name.endswith(GZIP) else f"{convert} {source} > {target}"
    )
