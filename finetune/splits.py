"""Splits that the data does not have are drawn from those it has: by the seed, and alike in their classes."""

from collections import Counter

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from export.files import DataError

CLASSES = ("label", "labels", "tags")
"""Columns of which every value must be in train."""
FEWEST = 10
"""Rows that can be split."""


def complete(splits: dict[str, Dataset], source: str, seed: int) -> dict[str, Dataset]:
    """Make the splits that are not there; `all` becomes train, validation and test, 80/10/10.

    Raises DataError for fewer than ten rows.
    """
    if "all" in splits:
        rows = splits["all"]
        if len(rows) < FEWEST:
            raise DataError(
                f"{source} has {len(rows)} rows, too few to split", "give at least 10, or a folder of splits"
            )
        classes = _classes(rows)
        train, rest = _divide(np.arange(len(rows)), classes, 0.2, seed)
        validation, test = _divide(rest, classes, 0.5, seed)
        return {"train": _pick(rows, train), "validation": _pick(rows, validation), "test": _pick(rows, test)}
    if "validation" in splits:
        return splits
    rows = splits["train"]
    if len(rows) < FEWEST:
        raise DataError(
            f"{source} has no validation file and too few rows to take it from train", "add validation rows"
        )
    train, validation = _divide(np.arange(len(rows)), _classes(rows), 0.1, seed)
    return {**splits, "train": _pick(rows, train), "validation": _pick(rows, validation)}


def _classes(rows: Dataset) -> npt.NDArray[np.int64]:
    """Number the class of every row, its rarest where it has several; all 0 for data without classes. (rows,)."""
    column = next((name for name in CLASSES if name in rows.column_names), None)
    if column is None:
        return np.zeros(len(rows), np.int64)
    only = rows.select_columns(column)
    counts = Counter(each for row in only for each in _values(row[column]))
    numbers: dict[str, int] = {}
    rarest = (min(_values(row[column]), key=lambda each: (counts[each], each), default="") for row in only)
    return np.fromiter((numbers.setdefault(each, len(numbers)) for each in rarest), np.int64, len(rows))


def _values(cell: object) -> set[str]:
    return {str(each) for each in cell} if isinstance(cell, list) else {str(cell)}


def _divide(
    of: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide row numbers in two, the second with `share` of them, rounded up, and with that share of each class.

    In random order each class is spread evenly from 0 to 1, and the second part is what lies last. The first row
    of a class lies at 0, so that the first part has it however rare it is.
    """
    drawn = np.random.default_rng(seed).permutation(of)
    seen: Counter[int] = Counter()
    totals = Counter(classes[drawn].tolist())
    places = np.empty(len(drawn))
    for i, kind in enumerate(classes[drawn].tolist()):
        places[i] = (seen[kind] + 0.5) / totals[kind] if seen[kind] else 0.0
        seen[kind] += 1
    count = int(np.ceil(share * len(drawn)))
    last = np.zeros(len(drawn), bool)
    last[np.argsort(places, kind="stable")[len(drawn) - count :]] = True
    return drawn[~last], drawn[last]


def _pick(rows: Dataset, numbers: npt.NDArray[np.int64]) -> Dataset:
    # `select` would cut neighbouring rows out of the table, and their numbers in the file with it.
    return rows._select_with_indices_mapping(numbers)
