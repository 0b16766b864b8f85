"""Converts types of columns that a file has in place of those of the task, where the meaning is clear."""

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value

FLOATS = ("float16", "float32", "float64")


def convert_type(rows: Dataset, name: str, column: str) -> Dataset:
    """Convert a column of the source, which is the task's column `name`.

    A score of decimals becomes float64. In `label`, true and false become the names "True" and "False", as pandas
    writes them into a table, and whole numbers that are stored as fractions or decimals become integers: pandas does
    so if a row has no value.
    """
    dtype = getattr(rows.features[column], "dtype", None)
    if name not in ("label", "score") or not isinstance(dtype, str):
        return rows
    if dtype.startswith("decimal"):
        rows, dtype = rows.cast_column(column, Value("float64")), "float64"
    if name == "label" and dtype == "bool":
        features = rows.features.copy()
        features[column] = Value("string")
        return rows.map(
            lambda row: {column: None if row[column] is None else str(row[column])}, features=features, desc="labels"
        )
    return _with_integers(rows, column) if name == "label" and dtype in FLOATS else rows


def _with_integers(rows: Dataset, column: str) -> Dataset:
    """Convert fractions to integers, if all are whole."""
    values = rows.data.column(column)
    try:
        pc.cast(values, pa.int64(), safe=True)
    except pa.ArrowInvalid:
        return rows
    return rows.cast_column(column, Value("int64"))
