"""Chunks of an input file and the rows in them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

MAX_ROW_BYTES = 64 * 2**20
"""Of a longer row only the beginning is read, so that memory stays bounded."""
MAX_CHUNK_BYTES = 8 * 2**20
"""A chunk ends when its rows have so many bytes, even if it could have more rows."""
SHOWN_CHARS = 10_000
"""Characters of a row that cannot be parsed which the side file shows."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring rows that are scored and written together."""

    number: int
    """From 0, in the order of the file."""
    first_row: int
    """Number of its first row, from 1; in JSON Lines that of the line."""
    rows: int
    """Rows, those that cannot be parsed included; in JSON Lines the lines."""
    start: int
    """Its first byte; in Parquet its first row, from 0."""
    stop: int
    """The first byte, or row, after it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the input."""

    number: int
    fields: Mapping[str, Any]
    """Its columns, or those that the model reads; empty if it cannot be parsed."""
    problem: str | None = None
    """Why it cannot be parsed."""
    raw: Any = None
    """What the writer of the same format copies: the line, the cells, or the position in the chunk's table."""


@dataclass(frozen=True)
class ChunkRows:
    """The rows of a chunk."""

    rows: list[Row]
    table: Any = None
    """Of Parquet: a pyarrow Table with all columns."""

    def whole(self, row: Row) -> dict[str, Any]:
        """Return all columns of a row."""
        return dict(self.table.slice(row.raw, 1).to_pylist()[0]) if self.table is not None else dict(row.fields)


class Source(Protocol):
    """An input file."""

    path: Path
    columns: tuple[str, ...] | None
    """The columns of all rows; None for JSON Lines, whose rows may differ."""

    def index(self, max_rows: int) -> Iterator[Chunk]:
        """Yield the file's chunks, in order, of at most `max_rows` rows."""

    def read(self, chunk: Chunk, columns: tuple[str, ...] | None = None) -> ChunkRows:
        """Read a chunk; where the format allows it, only `columns` are converted to Python."""


class ChunkBuilder:
    """Cuts rows into chunks of bounded rows and bytes."""

    def __init__(self, max_rows: int, start: int, first_row: int = 1) -> None:
        """Begin the first chunk at the byte `start`."""
        self._max_rows = max_rows
        self._number = self._rows = 0
        self._first_row = first_row
        self._start = self._stop = start

    def add(self, stop: int) -> Iterator[Chunk]:
        """Add a row that ends at the byte `stop`; yields the chunk if that completes it."""
        self._rows += 1
        self._stop = stop
        if self._rows == self._max_rows or stop - self._start >= MAX_CHUNK_BYTES:
            yield from self.finish()

    def finish(self) -> Iterator[Chunk]:
        """Yield the chunk that is not complete yet, if it has rows."""
        if self._rows:
            yield Chunk(self._number, self._first_row, self._rows, self._start, self._stop)
            self._number += 1
            self._first_row += self._rows
            self._rows, self._start = 0, self._stop
