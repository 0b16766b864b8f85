"""Reads inputs, with or without targets, for the gate and the benchmarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuneport.data.reader import read_data, reread
from tuneport.data.rows import Problems, numbered_rows
from tuneport.data.splits import draw
from tuneport.errors import DataError
from tuneport.folders import digest
from tuneport.schema.run import DataSource

UNLABELLED_SPLITS = ("validation", "test", "all", "train")
"""Splits of unlabelled data, the first that there is: a model may have been trained on the last."""
REMEDY = "correct or remove these rows, give data as the model was trained on, or rename columns with --columns"


class RowReader(Protocol):
    """Knows the columns of a task, and what an input and a target are in them."""

    columns: tuple[str, ...]
    """Columns that the data must have."""
    optional_columns: tuple[str, ...]

    @property
    def target_columns(self) -> tuple[str, ...]:
        """Return those of `columns` that a model predicts; not read where data is unlabelled."""

    def set_data_source(self, source: str) -> None:
        """Resolve the relative paths of rows against the data's folder, for tasks whose inputs are files."""

    def read_input(self, row: dict[str, Any]) -> Any:
        """Return a row's input, as a request would bring it; raises ValueError for one that is none."""

    def read_target(self, row: dict[str, Any]) -> Any:
        """Return a row's target; raises ValueError for one that the model cannot predict."""


@dataclass(frozen=True)
class Sample:
    """Inputs in the data's order, as requests would bring them; empty without data."""

    inputs: list[Any]
    targets: list[Any]
    """One for each input; empty if the data is unlabelled."""
    source: DataSource | None
    split: str
    is_drawn: bool = False
    """Whether the split was drawn from rows that the data does not call so."""


def read_sample(
    task: RowReader,
    *,
    data: str | DataSource | None,
    columns: dict[str, str],
    seed: int,
    splits: Sequence[str],
    count: int,
    split_names: Mapping[str, str] | None = None,
    unlabelled: bool = False,
) -> Sample:
    """Read up to `count` rows of the first of `splits` that the data has; `split_names` as in `read_data`.

    `data` is the user's source, `unlabelled` or not, or the record of one that was read before and must not have
    changed since. Raises DataError for data that is gone, or has targets that the model cannot predict, all of which it
    lists; and for names of columns or splits without a source of the user's.

    Of unlabelled data the rows are drawn, and an input that is repeated counts once.
    """
    if (columns or split_names) and not isinstance(data, str):
        raise DataError("--columns and --splits are for --data, which is not given", "give it, or leave them out")
    if data is None:
        return Sample([], [], None, "")
    wanted: dict[str, Any] = {"required": task.columns, "optional": task.optional_columns}
    if isinstance(data, DataSource):
        read = reread(data, targets=task.target_columns, **wanted)
    else:
        hidden = task.target_columns if unlabelled else None
        read = read_data(data, columns=columns, seed=seed, splits=split_names, hidden=hidden, **wanted)
    task.set_data_source(read.source.source)
    unlabelled = read.source.unlabelled
    split = next(name for name in (*splits, *UNLABELLED_SPLITS) if name in read.splits)
    rows = read.splits[split]
    if unlabelled:  # nobody shuffled them, and files are often sorted
        rows = draw(rows, count, read.source.seed)
    inputs, targets = [], []
    problems = Problems(REMEDY)
    for number, row in numbered_rows(rows.take(min(count, len(rows)))):
        try:
            value = task.read_input(row)
            if not unlabelled:
                targets.append(task.read_target(row))
        except ValueError as error:
            problems.add(f"{read.files[split]} row {number}", str(error))
            continue
        inputs.append(value)
    problems.raise_if_any()
    if unlabelled:
        inputs = list({digest(repr(each)): each for each in inputs}.values())
    return Sample(inputs, targets, read.source, split, split in read.drawn)
