"""Describes the columns of a source by their values, which is what the task is recognized from."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any, Literal

from datasets import ClassLabel, Dataset

from tuneport.data.files import LoadedSplit
from tuneport.data.rows import numbered_rows

Kind = Literal[
    "string",
    "integer",
    "fraction",
    "audio",
    "strings",
    "integers",
    "fractions",
    "messages",
    "answers",
    "written list",
    "empty",
    "other",
]
"""What the values of a column are; the plural is a list of them in each row, a `written list` one in a table's cell."""
SAMPLE_ROWS = 2000
AUDIO_FILE = re.compile(r".+\.(wav|flac)", re.I)
ROW_KEYS = ("id", "idx", "index", "key", "no", "nr", "number", "row", "rowid", "rownumber", "uid")
INTEGER = re.compile(r"[+-]?\d+(\.0+)?")
ROW_NUMBERS = re.compile(r"__index_level_\d+__|Unnamed: \d+")
"""Names that pandas gives to a column of row numbers."""


@dataclass(frozen=True)
class Column:
    """A column of the source."""

    name: str
    kind: Kind
    mean_length: float
    """Characters of a string, elements of a list."""
    distinct: int
    """Different values in the sample."""
    rows: int
    """Values in the sample that are not null or empty."""

    @property
    def key(self) -> str:
        """The name in lower case, without what is not a letter or digit."""
        return key_of(self.name)

    @property
    def numbers_rows(self) -> bool:
        """Whether the column has the name and the values of row numbers."""
        return self.kind == "integer" and self.key in ROW_KEYS and self.distinct == self.rows

    @property
    def looks_like_classes(self) -> bool:
        """Whether the values repeat as those of a label do."""
        return self.kind in ("string", "integer") and 2 <= self.distinct <= max(2, min(200, self.rows // 2))


def key_of(name: str) -> str:
    """Return a column's name in lower case, without what is not a letter or digit."""
    return "".join(char for char in name.lower() if char.isalnum())


def first_rows(rows: Dataset) -> list[dict[str, Any]]:
    """Return the first `SAMPLE_ROWS` rows."""
    return [row for _, row in islice(numbered_rows(rows), SAMPLE_ROWS)]


def describe_columns(split: LoadedSplit) -> list[Column]:
    """Describe every column by the values of the first rows."""
    sample = first_rows(split.rows)
    names = {name for name, feature in split.rows.features.items() if isinstance(feature, ClassLabel)}
    return [
        _describe(name, [row[name] for row in sample], is_table=split.delimiter is not None, is_label=name in names)
        for name in split.rows.column_names
        if name and not ROW_NUMBERS.fullmatch(name)  # a table's column without a name holds row numbers, too
    ]


def _describe(name: str, values: list[Any], *, is_table: bool, is_label: bool) -> Column:
    present = [value for value in values if not _is_blank(value)]
    kind: Kind = "string" if is_label else _kind(present, is_table=is_table)
    lengths = [len(value) for value in present if isinstance(value, str | list)]
    mean_length = sum(lengths) / len(lengths) if lengths else 0.0
    return Column(name, kind, mean_length, len({str(value) for value in present}), len(present))


def _is_blank(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _kind(values: list[Any], *, is_table: bool) -> Kind:
    if not values:
        return "empty"
    if all(isinstance(value, str) for value in values):
        return _kind_of_strings(values, is_table=is_table)
    if all(isinstance(value, int) for value in values):  # true and false as well
        return "integer"
    if all(isinstance(value, int | float | Decimal) for value in values):  # pandas stores whole numbers as fractions
        return "integer" if all(_is_whole(value) for value in values) else "fraction"
    if all(_is_answer(value) for value in values):
        return "answers"
    if not all(isinstance(value, list) for value in values):
        return "other"
    return _kind_of_lists([element for value in values for element in value])


def _kind_of_strings(values: list[str], *, is_table: bool) -> Kind:
    if all(AUDIO_FILE.fullmatch(value) for value in values):
        return "audio"
    if is_table and all(value.strip()[:1] + value.strip()[-1:] == "[]" for value in values):
        return "written list"
    if is_table and all(INTEGER.fullmatch(value.strip()) for value in values):
        return "integer"
    if is_table and all(_is_number(value) for value in values):
        return "fraction"
    return "string"


def _kind_of_lists(elements: list[Any]) -> Kind:
    if _all(elements, str):
        return "strings"
    if all(isinstance(element, dict) and {"role", "content"} <= element.keys() for element in elements):
        return "messages"
    if _all(elements, int):
        return "integers"
    return "fractions" if _all(elements, int | float) else "other"


def _is_answer(value: Any) -> bool:
    """Tell whether a value has the form of SQuAD's answers."""
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, dict) and {"text", "answer_start"} <= item.keys() for item in items)


def _all(elements: Iterable[Any], kinds: Any) -> bool:
    return all(isinstance(element, kinds) for element in elements)


def _is_whole(value: int | float | Decimal) -> bool:
    return math.isfinite(value) and value == int(value)


def _is_number(cell: str) -> bool:
    """Tell whether a cell is a number, with a point or a comma: the comma is refused with its remedy later."""
    try:
        return math.isfinite(float(cell.strip().replace(",", ".", 1)))
    except ValueError:
        return False
