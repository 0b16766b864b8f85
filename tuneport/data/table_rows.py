"""Reads rows of CSV and TSV. Every cell is a string: 01 stays 01, and "NA" is a text."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from tuneport.data.textfile import open_text
from tuneport.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
HEADER_ROWS = 1000
"""Rows that are looked at to tell whether there is a header."""
NAME_WORDS = 4
NUMBER = re.compile(r"[+-]?[\d.,]+")
EXCEL_HINT = re.compile(r"sep=(.)\s*")
"""The first line that Excel writes and reads to name the delimiter."""

csv.field_size_limit(2**31 - 1)  # the default of 128 kB is less than some documents


def read_csv(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV with quoted cells; its delimiter is the one that divides its header most."""
    return _read(path, find_delimiter(path), is_quoted=True)


def read_tsv(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a TSV. Quotes enclose a cell if all rows allow that reading, else they are text."""
    return _read(path, "\t", is_quoted=has_quoted_cells(path))


def find_delimiter(path: Path, errors: str = "strict") -> str:
    """Find the delimiter that divides the header into most names, or that Excel's first line names.

    `errors` is that of `open_text`.
    """
    with open_text(path, newline="", errors=errors) as file:
        hint = EXCEL_HINT.fullmatch(file.readline())
    if hint:
        return hint.group(1)
    counts = {}
    for delimiter in DELIMITERS:
        with open_text(path, newline="", errors=errors) as file:
            counts[delimiter] = len(_header(path, csv.reader(file, delimiter=delimiter)))
    return max(counts, key=lambda delimiter: counts[delimiter])  # the first of equals


def has_header(path: Path, delimiter: str) -> bool:
    """Tell whether the first row looks like names of columns.

    It does not if a cell is a number, is among the values of its column, or has more words than a name.
    """
    with open_text(path, newline="") as file:
        _skip_hint(file)
        reader = csv.reader(file, delimiter=delimiter)
        names = _header(path, reader)
        try:
            rows = [cells for cells in islice(reader, HEADER_ROWS) if cells]
        except csv.Error:  # which reading the rows reports
            rows = []
    columns = [[cells[i].strip() for cells in rows if i < len(cells)] for i in range(len(names))]
    return not any(
        name and (NUMBER.fullmatch(name) or name in values or len(name.split()) > NAME_WORDS)
        for name, values in zip(names, columns, strict=True)
    )


def first_row_is_data(file: str, columns: Sequence[str]) -> DataError:
    """Return the error for a table without names of columns."""
    return DataError(
        f"the first row of {file} looks like data: {', '.join(map(repr, columns))}",
        "write a line with the columns' names above it, such as text,label",
    )


def _read(path: Path, delimiter: str, *, is_quoted: bool) -> Iterator[dict[str, Any]]:
    with open_text(path, newline="") as file:
        _skip_hint(file)
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE
        reader = csv.reader(file, delimiter=delimiter, strict=True, quoting=quoting)
        names = _header(path, reader)
        if repeated := [name for name, count in Counter(names).items() if name and count > 1]:
            raise DataError(f"{path} has several columns named {repeated[0]!r}", "rename or remove all but one")
        number = 0
        try:
            for cells in reader:
                if not any(cells):  # an empty line, or the commas alone that Excel writes below a table
                    continue
                number += 1
                if any(cells[len(names) :]):
                    found = f"row {number} (line {reader.line_num}) has {len(cells)} cells"
                    raise DataError(
                        f"{path} cannot be read: {found} and the header {len(names)}, separated by {delimiter!r}",
                        f"put cells that contain {delimiter!r} in quotes",
                    )
                yield dict(zip(names, [*cells, *[""] * (len(names) - len(cells))], strict=False))
        except csv.Error as error:
            problem = f"{path} cannot be read: {error} in row {number + 1}, which ends in line {reader.line_num}"
            raise DataError(problem, "close the quotes, and double those inside of a quoted cell") from error


def _header(path: Path, reader: Any) -> list[str]:
    """Read the names of the columns, without spaces around them."""
    try:
        return [name.strip() for name in next((cells for cells in reader if cells), [])]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read: {error} in its header", "correct the quotes") from error


def _skip_hint(file: IO[str]) -> None:
    if not EXCEL_HINT.fullmatch(file.readline()):
        file.seek(0)


def has_quoted_cells(path: Path, errors: str = "strict") -> bool:
    """Tell whether a TSV can be read with quoted cells; `errors` is that of `open_text`.

    In files without quoting a text may begin with a quote, which would swallow what follows up to the next quote: the
    rows then have too many cells, text after the closing quote, or a cell with a tab and also a line break or too few
    cells beside it.
    """
    with open_text(path, newline="", errors=errors) as file:
        reader = csv.reader(file, delimiter="\t", strict=True)
        try:
            width = len(next(reader, []))
            return all(
                len(cells) <= width and not any("\t" in cell and ("\n" in cell or len(cells) < width) for cell in cells)
                for cells in reader
            )
        except csv.Error:
            return False
