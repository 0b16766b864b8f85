"""Reads rows of JSON: one object a line, an array, `{"data": [rows]}`, or SQuAD's articles."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneport.data.textfile import open_text
from tuneport.errors import DataError

Row = dict[str, Any]
ARRAY = re.compile(r"\s*\[\s*(\{|$)")
"""The first line of an array of rows."""
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a UTF-16 surrogate pair, which UTF-8 cannot encode."""
ROWS_OF_PANDAS = 'it holds columns; write rows, in pandas with to_json(path, orient="records")'
DOCUMENT_FORMS = 'give an array of rows, {"data": [rows]}, or one object a line'


def read_json_lines(path: Path) -> Iterator[Row]:
    """Yield the object of each line; empty lines are skipped."""
    has_rows = False
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"line {number}"
            if not has_rows and ARRAY.match(line):
                raise DataError(f"{path} begins with '[', as an array of rows does", "give its name the suffix .json")
            has_rows = True
            value = _parse(path, line, place)
            if not isinstance(value, dict):
                raise _unreadable(path, f"{place} is not an object: {line.strip()[:60]!r}")
            if "\\u" in line:
                _check_surrogates(path, value, place)
            yield value


def read_json(path: Path) -> Iterator[Row]:
    """Yield the rows of a document, or of JSON Lines under the name .json."""
    with open_text(path) as file:
        lines = (line for line in file if line.strip())
        first, has_more = next(lines, ""), next(lines, None) is not None
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        value = None
    is_row = isinstance(value, dict) and (
        has_more or not (isinstance(value.get("data"), list) or _holds_columns(value))
    )
    return read_json_lines(path) if is_row else _read_document(path)


def _read_document(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        value = _parse(path, file.read(), "it")
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        found = f"an object with {list(value)[:8]}" if isinstance(value, dict) else f"{json.dumps(value)[:60]}"
        raise DataError(f"{path} is {found}", ROWS_OF_PANDAS if _holds_columns(value) else DOCUMENT_FORMS)
    if rows and all(isinstance(row, dict) and "paragraphs" in row for row in rows):
        rows = list(_squad_rows(path, rows))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise _unreadable(path, f"row {number} is not an object: {json.dumps(row, ensure_ascii=False)[:60]}")
        _check_surrogates(path, row, f"row {number}")
        yield row


def _holds_columns(value: Any) -> bool:
    """Tell whether a document maps columns to their values by row number, as `to_json` of pandas writes it."""
    columns = list(value.values()) if isinstance(value, dict) else []
    rows = columns[0].keys() if len(columns) > 1 and isinstance(columns[0], dict) else set()
    return "0" in rows and all(isinstance(column, dict) and column.keys() == rows for column in columns)


def _squad_rows(path: Path, articles: list[Row]) -> Iterator[Row]:
    """Yield a row for each question of SQuAD's articles; of an unanswerable one the answers are empty."""
    for number, article in enumerate(articles, 1):
        try:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = [] if question.get("is_impossible") else question.get("answers", [])
                    yield {
                        "id": str(question.get("id", "")),
                        "title": str(article.get("title", "")),
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": {name: [answer[name] for answer in answers] for name in ("text", "answer_start")},
                    }
        except (KeyError, TypeError, AttributeError) as error:
            problem = f"article {number} is not in SQuAD's form ({type(error).__name__}: {error})"
            raise _unreadable(path, problem) from error


def _parse(path: Path, text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _unreadable(path, f"{place} is not JSON ({error}): {text.strip()[:60]!r}") from error
    except RecursionError as error:
        raise _unreadable(path, f"{place} is nested too deeply") from error


def _check_surrogates(path: Path, row: Row, place: str) -> None:
    text = json.dumps(row, ensure_ascii=False)
    if surrogate := SURROGATE.search(text):
        code = f"\\u{ord(surrogate.group()):x}"
        raise _unreadable(path, f"{place} has an unpaired surrogate, {code}: {text[:60]!a}")


def _unreadable(path: Path, problem: str) -> DataError:
    return DataError(f"{path} cannot be read: {problem}", "correct the file")
