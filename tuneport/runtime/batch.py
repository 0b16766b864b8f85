"""The runtime's data types: encoded inputs, batches, and the outputs of each row."""

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from tuneport.schema.artifact import Device, Layout, Processing

Ids = npt.NDArray[np.int64]
Output = npt.NDArray[np.float32]
RowOutputs = dict[str, Output]
"""The outputs of one row by name, without the row axis and without padding."""


@dataclass(frozen=True, slots=True)
class EncodedInput:
    """One row: an input, or one window of it, as token ids, special tokens included."""

    ids: list[int]
    type_ids: list[int]
    truncated: bool
    """Whether the input was longer than the model's maximum and lost tokens."""
    encoding: Encoding | None = field(default=None, compare=False)
    """Each token's characters, word and sequence, for tasks whose predictions have positions."""
    group: Hashable = None
    """Only rows of one group share a batch."""

    def __len__(self) -> int:
        """Count the tokens."""
        return len(self.ids)


RunBatch = Callable[[Sequence[EncodedInput]], list[RowOutputs]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that run together, in the form that a backend takes."""

    feeds: Mapping[str, Ids]
    """Input arrays by name; in the padded layout each int64 (rows, padded length)."""
    slices: tuple[slice, ...]
    """For each row, the positions of its tokens on the token axis."""
    layout: Layout = "padded"
    device: Device = "cpu"

    def split(self, outputs: Mapping[str, Output], *, per_token: bool) -> list[RowOutputs]:
        """Return the outputs of each row; with `per_token`, only those of its own tokens, without padding.

        `outputs` have rows on their first axis and, with `per_token`, tokens on their second.
        """
        rows = range(len(self.slices))
        if not per_token:
            return [{name: values[i] for name, values in outputs.items()} for i in rows]
        return [{name: values[i][self.slices[i]] for name, values in outputs.items()} for i in rows]


def padded_batch(
    rows: Sequence[EncodedInput], processing: Processing, length: int = 0, device: Device = "cpu"
) -> Batch:
    """Stack rows into `input_ids`, `attention_mask` and `token_type_ids`, int64 (rows, longest row or `length`)."""
    shape = (len(rows), max(length, *map(len, rows)))
    ids, mask = np.full(shape, processing.pad_token_id, np.int64), np.zeros(shape, np.int64)
    types = np.full(shape, processing.pad_token_type_id, np.int64)
    slices = tuple(_token_slice(row, shape[1], processing) for row in rows)
    for i, (row, positions) in enumerate(zip(rows, slices, strict=True)):
        ids[i, positions], mask[i, positions], types[i, positions] = row.ids, 1, row.type_ids
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return Batch(feeds, slices, device=device)


def group_by_input(results: Sequence[Any], windows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Regroup the results of all rows by input; `windows` has the rows of each input."""
    source = iter(results)
    return [list(itertools.islice(source, len(rows))) for rows in windows]


def _token_slice(row: EncodedInput, length: int, processing: Processing) -> slice:
    """Return the positions of a row's tokens in a batch of `length` positions a row."""
    return slice(length - len(row), length) if processing.padding_side == "left" else slice(0, len(row))
