"""Reads JSON Lines in chunks: a line that is no object becomes a row with a problem, and no error."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tuneport.scoring.rows import MAX_ROW_BYTES, SHOWN_CHARS, Chunk, ChunkBuilder, ChunkRows, Row

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonLines:
    """A JSON Lines file."""

    columns: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        """Read `path`."""
        self.path = path

    def index(self, max_rows: int) -> Iterator[Chunk]:
        """Yield chunks of at most `max_rows` lines, empty ones counted."""
        builder = ChunkBuilder(max_rows, 0)
        with self.path.open("rb") as file:
            for _ in bounded_lines(file):
                yield from builder.add(file.tell())
            yield from builder.finish()

    def read(self, chunk: Chunk, columns: tuple[str, ...] | None = None) -> ChunkRows:
        """Read a chunk; empty lines are no rows."""
        rows = []
        with self.path.open("rb") as file:
            file.seek(chunk.start)
            lines = itertools.islice(bounded_lines(file), chunk.rows)
            for number, line in enumerate(lines, chunk.first_row):
                if number == 1:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                if line.strip():
                    rows.append(_parse(number, line))
        return ChunkRows(rows)


def bounded_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file; of one longer than `MAX_ROW_BYTES` only the beginning, and one byte more."""
    while line := file.readline(MAX_ROW_BYTES + 1):
        rest = line
        while len(rest) > MAX_ROW_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_ROW_BYTES + 1)
        yield line


def _parse(number: int, line: bytes) -> Row:
    shown = line[:SHOWN_CHARS].decode(errors="backslashreplace").strip()
    if len(line) > MAX_ROW_BYTES:
        return Row(number, {}, f"the line is longer than {MAX_ROW_BYTES} bytes", shown)
    try:
        text = line.decode().strip()
        value = json.loads(text)
    except UnicodeDecodeError as error:
        return Row(number, {}, f"the line is not UTF-8 (byte 0x{line[error.start]:02x})", shown)
    except ValueError as error:
        return Row(number, {}, f"the line is not JSON ({error})", shown)
    except RecursionError:
        return Row(number, {}, "the line is nested too deeply", shown)
    if not isinstance(value, dict):
        return Row(number, {}, "the line is not an object", shown)
    return Row(number, value, raw=text)
