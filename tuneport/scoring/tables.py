"""Reads CSV and TSV in chunks: a row that does not fit the header becomes a row with a problem, and no error."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tuneport.data.table_rows import EXCEL_HINT, find_delimiter, has_quoted_cells
from tuneport.errors import DataError
from tuneport.scoring.json_lines import BYTE_ORDER_MARK, bounded_lines
from tuneport.scoring.rows import MAX_ROW_BYTES, SHOWN_CHARS, Chunk, ChunkBuilder, ChunkRows, Row

ESCAPED = "surrogateescape"
"""Bytes that are not UTF-8 become surrogates, so that only their row has a problem."""


class Table:
    """A CSV or TSV file, with the delimiter and the quotes that `tuneport.data.table_rows` finds."""

    columns: tuple[str, ...] | None

    def __init__(self, path: Path) -> None:
        """Read the header; raises DataError for one without names, or with a name twice."""
        self.path = path
        is_tsv = path.suffix.lower() == ".tsv"
        self.delimiter = "\t" if is_tsv else find_delimiter(path, ESCAPED)
        self._quoting = csv.QUOTE_MINIMAL if not is_tsv or has_quoted_cells(path, ESCAPED) else csv.QUOTE_NONE
        with path.open("rb") as file:
            reader = _Reader(path, file, self.delimiter, self._quoting)
            cells, problem = reader.header()
            self._data_start = reader.position
        names = [name.strip() for name in cells]
        if problem or not any(names):
            raise DataError(f"{path} has no header that can be read ({problem or 'it is empty'})", "correct line 1")
        if repeated := {name for name in names if name and names.count(name) > 1}:
            raise DataError(f"{path} has several columns named {min(repeated)!r}", "rename or remove all but one")
        self.columns = tuple(names)

    def index(self, max_rows: int) -> Iterator[Chunk]:
        """Yield chunks of at most `max_rows` rows."""
        builder = ChunkBuilder(max_rows, self._data_start)
        with self.path.open("rb") as file:
            reader = _Reader(self.path, file, self.delimiter, self._quoting, self._data_start)
            for _ in reader.rows():
                yield from builder.add(reader.position)
            yield from builder.finish()

    def read(self, chunk: Chunk, columns: tuple[str, ...] | None = None) -> ChunkRows:
        """Read a chunk."""
        with self.path.open("rb") as file:
            reader = _Reader(self.path, file, self.delimiter, self._quoting, chunk.start)
            found = enumerate(itertools.islice(reader.rows(), chunk.rows), chunk.first_row)
            return ChunkRows([self._row(number, cells, problem, reader) for number, (cells, problem) in found])

    def _row(self, number: int, cells: list[str], problem: str | None, reader: "_Reader") -> Row:
        names = self.columns or ()
        if problem is None and any(cells[len(names) :]):
            problem = f"the row has {len(cells)} cells and the header {len(names)}, separated by {self.delimiter!r}"
        if problem is None:
            problem = _encoding_problem(cells)
        if problem:
            return Row(number, {}, problem, reader.source())
        cells = [*cells[: len(names)], *[""] * (len(names) - len(cells))]
        return Row(number, dict(zip(names, cells, strict=True)), raw=cells)


class _Reader:
    """Reads rows and knows where in the file each ends."""

    def __init__(self, path: Path, file: IO[bytes], delimiter: str, quoting: int, start: int = 0) -> None:
        """Read from the byte `start`."""
        self._path = path
        self.position = start
        self._lines: list[bytes] = []
        file.seek(start)
        self._reader = csv.reader(
            self._decode(file),
            delimiter=delimiter,
            strict=True,
            quoting=quoting,  # type: ignore[arg-type]
        )

    def header(self) -> tuple[list[str], str | None]:
        """Return the first row, or the second one if Excel's first line names the delimiter."""
        rows = self.rows()
        first = next(rows, ([], None))
        is_hint = len(self._lines) == 1 and EXCEL_HINT.fullmatch(self._lines[0].decode(errors=ESCAPED))
        return next(rows, ([], None)) if is_hint else first

    def rows(self) -> Iterator[tuple[list[str], str | None]]:
        """Yield the cells of each row that is not empty, or why they cannot be read."""
        while True:
            self._lines.clear()
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield [], f"the row is not CSV ({error})"
                continue
            if cells:
                yield cells, None

    def source(self) -> str:
        """Return the text of the last row, or its beginning."""
        return b"".join(self._lines)[:SHOWN_CHARS].decode(errors="backslashreplace").rstrip("\r\n")

    def _decode(self, file: IO[bytes]) -> Iterator[str]:
        size = 0
        for line in bounded_lines(file):
            size = len(line) + (size if self._lines else 0)
            if size > MAX_ROW_BYTES:
                problem = f"{self._path} has a row longer than {MAX_ROW_BYTES} bytes before byte {file.tell()}"
                raise DataError(problem, "close its quotes, or split it")
            if self.position == 0:
                line = line.removeprefix(BYTE_ORDER_MARK)
            self.position = file.tell()
            self._lines.append(line)
            yield line.decode(errors=ESCAPED)


def _encoding_problem(cells: list[str]) -> str | None:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError as error:
        return f"the row is not UTF-8 (byte 0x{ord(error.object[error.start]) - 0xDC00:02x})"
    return None
