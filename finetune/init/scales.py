"""Labels that are numbers, such as ratings: they may be a scale, whose order a classifier does not know."""

from collections.abc import Collection

from .columns import key_of

RATINGS = ("stars", "rating", "ratings", "grade", "score", "points")
"""Names of columns whose numbers are a scale, however few they are."""
FEW = 10
"""Whole numbers up to which the labels of a column of another name are taken for classes without a doubt."""


def find_scale(labels: Collection[str], column: str) -> list[str]:
    """Warn of labels that may be a scale, with the way to say so."""
    numbers = _numbers(labels)
    if numbers is None or not _may_be_scale(numbers, column):
        return []
    fraction = next((f", {number:g} among them" for number in numbers if not number.is_integer()), "")
    values = f"{len(numbers)} different numbers from {numbers[0]:g} to {numbers[-1]:g}{fraction}"
    remedy = f"if they are a scale, give --task regression --columns score={column}"
    return [f"{column} has {values}, taken for labels, which have no order; {remedy}"]


def _may_be_scale(numbers: list[float], column: str) -> bool:
    if not all(number.is_integer() for number in numbers):
        return True
    is_numbered = numbers == [*range(len(numbers))]
    return len(numbers) > 2 and (key_of(column) in RATINGS or (len(numbers) > FEW and not is_numbered))


def _numbers(labels: Collection[str]) -> list[float] | None:
    """Return the labels as numbers, in ascending order; None if one is none."""
    try:
        return sorted(map(float, labels)) or None
    except ValueError:
        return None
