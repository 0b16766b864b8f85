"""Draws the splits that the data lacks from those it has, stratified by class and reproducible by the seed."""

from collections import Counter

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from tuneport.errors import DataError

CLASS_COLUMNS = ("label", "labels", "tags")
"""Columns of classes: train must have each value of theirs."""
MIN_ROWS = 10
"""The fewest rows that can be split."""


def complete_splits(splits: dict[str, Dataset], source: str, seed: int) -> dict[str, Dataset]:
    """Add the missing splits: `all` becomes train, validation and test, 80/10/10; else a tenth of train validation.

    Raises DataError for fewer than ten rows.
    """
    if "all" in splits:
        rows = splits["all"]
        if len(rows) < MIN_ROWS:
            raise DataError(
                f"{source} has {len(rows)} rows, too few to split", "give at least 10, or a folder of splits"
            )
        classes = _class_of_rows(rows)
        train, rest = _divide(np.arange(len(rows)), classes, 0.2, seed)
        validation, test = _divide(rest, classes, 0.5, seed)
        return {"train": _select(rows, train), "validation": _select(rows, validation), "test": _select(rows, test)}
    if "validation" in splits:
        return splits
    rows = splits["train"]
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"{source} has no validation file and too few rows to take it from train", "add validation rows"
        )
    train, validation = _divide(np.arange(len(rows)), _class_of_rows(rows), 0.1, seed)
    return {**splits, "train": _select(rows, train), "validation": _select(rows, validation)}


def draw(rows: Dataset, count: int, seed: int) -> Dataset:
    """Draw up to `count` rows without replacement, reproducible by the seed; they stay in order."""
    drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
    return _select(rows, np.sort(drawn))


def _class_of_rows(rows: Dataset) -> npt.NDArray[np.int64]:
    """Number the class of every row, (rows,): its rarest where it has several; all 0 for data without classes."""
    column = next((name for name in CLASS_COLUMNS if name in rows.column_names), None)
    if column is None:
        return np.zeros(len(rows), np.int64)
    cells = rows.select_columns(column)
    counts = Counter(value for row in cells for value in _values(row[column]))
    numbers: dict[str, int] = {}
    rarest = (min(_values(row[column]), key=lambda value: (counts[value], value), default="") for row in cells)
    return np.fromiter((numbers.setdefault(value, len(numbers)) for value in rarest), np.int64, len(rows))


def _values(cell: object) -> set[str]:
    return {str(value) for value in cell} if isinstance(cell, list) else {str(cell)}


def _divide(
    positions: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide positions of rows in two; the second part is `share` of them, rounded up, and about that of each class.

    The rows of each class, in random order, are spread evenly over the interval from 0 to 1, and the second part is
    the rows that lie last. The first row of a class lies at 0, so that the first part has every class.
    """
    shuffled = np.random.default_rng(seed).permutation(positions)
    seen: Counter[int] = Counter()
    totals = Counter(classes[shuffled].tolist())
    places = np.empty(len(shuffled))
    for i, number in enumerate(classes[shuffled].tolist()):
        places[i] = (seen[number] + 0.5) / totals[number] if seen[number] else 0.0
        seen[number] += 1
    count = int(np.ceil(share * len(shuffled)))
    is_second = np.zeros(len(shuffled), bool)
    is_second[np.argsort(places, kind="stable")[len(shuffled) - count :]] = True
    return shuffled[~is_second], shuffled[is_second]


def _select(rows: Dataset, positions: npt.NDArray[np.int64]) -> Dataset:
    # `select` takes neighbouring rows as a slice of the table, which loses their row numbers.
    return rows._select_with_indices_mapping(positions)
