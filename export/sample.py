"""Labelled inputs from the user's data, for the gate and the benchmarks."""

from dataclasses import dataclass
from typing import Any

from export.manifest import DataSource
from export.tasks import Task
from finetune.data import Problems, read_data, reread, rows_of

REMEDY = "give data as the model was trained on, or rename columns with --columns"


@dataclass(frozen=True)
class Sample:
    """Inputs in the data's order, as requests would bring them, with their right answers; empty without data."""

    inputs: list[Any]
    targets: list[Any]
    source: DataSource | None
    split: str


def read_sample(
    task: Task,
    *,
    data: str | DataSource | None,
    columns: dict[str, str],
    seed: int,
    splits: tuple[str, ...],
    count: int,
) -> Sample:
    """Read up to `count` rows of the first of `splits` that the data has.

    `data` is the user's source, or the record of one that was read before and must not have changed since.
    Raises DataError for data that is gone, or whose answers the model cannot give; it lists all such rows.
    """
    if data is None:
        return Sample([], [], None, "")
    optional = getattr(task, "optional", ())
    if isinstance(data, DataSource):
        read = reread(data, required=task.columns, optional=optional)
    else:
        read = read_data(data, columns=columns, required=task.columns, optional=optional, seed=seed)
    if locate := getattr(task, "locate", None):  # its rows name files
        locate(read.source.source)
    split = next(name for name in splits if name in read.splits)
    inputs, targets = [], []
    problems = Problems(REMEDY)
    for number, row in rows_of(read.splits[split].take(min(count, len(read.splits[split])))):
        try:
            given, target = task.read(row)
        except ValueError as error:
            problems.add(f"{read.files[split]} row {number}", str(error))
            continue
        inputs.append(given)
        targets.append(target)
    problems.raise_if_any()
    return Sample(inputs, targets, read.source, split)


def has_pairs(data: str | None, columns: dict[str, str], seed: int) -> bool:
    """Tell whether data has a `text_pair` beside its `text`."""
    if data is None:
        return False
    renamed = {name: column for name, column in columns.items() if name in ("text", "text_pair")}
    read = read_data(data, columns=renamed, required=("text",), optional=("text_pair",), seed=seed)
    return "text_pair" in next(iter(read.splits.values())).column_names
