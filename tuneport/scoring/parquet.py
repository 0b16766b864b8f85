"""Reads Parquet in chunks; a chunk lies within one row group."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from tuneport.errors import DataError
from tuneport.scoring.rows import MAX_CHUNK_BYTES, Chunk, ChunkRows, Row


class ParquetFile:
    """A Parquet file. Chunks are cheapest to read in their order: a row group can only be read from its beginning."""

    columns: tuple[str, ...] | None

    def __init__(self, path: Path) -> None:
        """Read the footer; raises DataError if it cannot be read."""
        self.path = path
        try:
            self._file = parquet.ParquetFile(path, memory_map=True, pre_buffer=False)
        except Exception as error:  # pyarrow's exceptions have no common base
            raise DataError(f"{path} cannot be read: {str(error).splitlines()[0][:200]}", "correct the file") from error
        self.schema = self._file.schema_arrow
        self.columns = tuple(self.schema.names)
        self._batches: Iterator[Any] = iter(())
        self._pending: list[Any] = []
        self._position = self._group_stop = 0

    def index(self, max_rows: int) -> Iterator[Chunk]:
        """Yield chunks of at most `max_rows` rows; fewer where rows are large."""
        number = start = 0
        for group in range(self._file.num_row_groups):
            metadata = self._file.metadata.row_group(group)
            row_bytes = metadata.total_byte_size / max(1, metadata.num_rows)
            size = max(1, min(max_rows, int(MAX_CHUNK_BYTES / max(1.0, row_bytes))))
            stop = start + metadata.num_rows
            for begin in range(start, stop, size):
                end = min(begin + size, stop)
                yield Chunk(number, begin + 1, end - begin, begin, end)
                number += 1
            start = stop

    def read(self, chunk: Chunk, columns: tuple[str, ...] | None = None) -> ChunkRows:
        """Read a chunk; `columns` are those that `Row.fields` has."""
        try:
            table = self._read(chunk)
        except Exception as error:  # as above
            problem = f"{self.path} cannot be read from row {chunk.first_row} on ({str(error).splitlines()[0][:200]})"
            raise DataError(problem, "correct the file") from error
        read = table.select(columns) if columns is not None else table
        rows = [Row(chunk.first_row + i, fields, raw=i) for i, fields in enumerate(read.to_pylist())]
        return ChunkRows(rows, table)

    def _read(self, chunk: Chunk) -> Any:
        if not self._position <= chunk.start < self._group_stop:
            self._open_group(chunk)
        self._take(chunk.start - self._position)
        return self._take(chunk.rows)

    def _open_group(self, chunk: Chunk) -> None:
        """Begin to read the row group of a chunk."""
        self._position = 0
        for group in range(self._file.num_row_groups):
            self._group_stop = self._position + self._file.metadata.row_group(group).num_rows
            if chunk.start < self._group_stop:
                self._batches = self._file.iter_batches(batch_size=chunk.rows, row_groups=[group])
                self._pending = []
                return
            self._position = self._group_stop

    def _take(self, count: int) -> Any:
        """Return the next `count` rows of the row group."""
        taken, missing = [], count
        while missing:
            batch = self._pending.pop() if self._pending else next(self._batches)
            if batch.num_rows > missing:
                self._pending.append(batch.slice(missing))
            taken.append(batch.slice(0, missing))
            missing -= taken[-1].num_rows
        self._position += count
        return pyarrow.Table.from_batches(taken, schema=self.schema)
