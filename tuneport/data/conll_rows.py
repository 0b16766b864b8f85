"""Reads tagged sentences of CoNLL text: a token a line, its tag in the last column, an empty line after a sentence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneport.data.textfile import open_text
from tuneport.errors import DataError

DOCUMENT_START = "-DOCSTART-"


def read_conll(path: Path) -> Iterator[dict[str, Any]]:
    """Yield `tokens`, the first column, `tags`, the last, and those between as `column_2`, …, for each sentence.

    Columns are separated by tabs if the first token line has one, else by spaces. Document marks are skipped, and so
    are lines that begin with # and have another number of columns.
    """
    names: list[str] = []
    separator: str | None = None
    sentence: list[list[str]] = []
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            stripped = line.rstrip("\n")
            if not stripped.strip() or stripped.startswith(DOCUMENT_START):
                if sentence:
                    yield _row(names, sentence)
                sentence = []
                continue
            if not names and not stripped.startswith("#"):
                separator = "\t" if "\t" in stripped.strip() else None
                names = _names(path, stripped, len(_split(stripped, separator)))
            cells = _split(stripped, separator)
            if len(cells) == len(names):
                sentence.append(cells)
            elif not stripped.startswith("#"):
                problem = f"line {number} has {len(cells)} columns and the first line {len(names)}: {stripped[:60]!r}"
                remedy = "give each line a token and its tag; texts belong into JSONL or CSV, in the column text"
                raise DataError(f"{path} cannot be read: {problem}", remedy)
    if sentence:
        yield _row(names, sentence)


def _names(path: Path, line: str, count: int) -> list[str]:
    if count < 2:
        problem = f"{path} is not CoNLL text: {line[:60]!r} is not a token and its tag"
        raise DataError(problem, "separate them by a tab or a space")
    return ["tokens", *(f"column_{i}" for i in range(2, count)), "tags"]


def _split(line: str, separator: str | None) -> list[str]:
    return [cell.strip() for cell in line.rstrip("\r\n").split(separator)]


def _row(names: list[str], sentence: list[list[str]]) -> dict[str, Any]:
    return {name: list(column) for name, column in zip(names, zip(*sentence, strict=True), strict=True)}
