"""What flows through the runtime: encoded inputs, the batches that run together, and each row's outputs."""

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
    """Whether the input was longer than the model's maximum and lost its end."""
    encoding: Encoding | None = field(default=None, compare=False)
    """Each token's characters, word and text, for tasks that answer with positions."""
    group: Hashable = None
    """Only rows of one group share a batch."""

    def __len__(self) -> int:
        """Count the tokens."""
        return len(self.ids)


RunBatch = Callable[[Sequence[EncodedInput]], list[RowOutputs]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that run together, as a backend takes them."""

    feeds: Mapping[str, Ids]
    """Input arrays by name; in the padded layout each int64 (rows, padded length)."""
    slices: tuple[slice, ...]
    """Of each row: where its tokens are on the token axis."""
    layout: Layout = "padded"
    device: Device = "cpu"

    def split(self, outputs: Mapping[str, Output], *, per_token: bool) -> list[RowOutputs]:
        """Give each row its outputs; of outputs with a value for each token, those of its own tokens.

        `outputs` have rows on their first axis and, if `per_token`, tokens on their second.
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
    for i, (row, place) in enumerate(zip(rows, slices, strict=True)):
        ids[i, place], mask[i, place], types[i, place] = row.ids, 1, row.type_ids
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return Batch(feeds, slices, device=device)


def group_by_input(results: Sequence[Any], windows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Give each input the results of its windows back."""
    source = iter(results)
    return [list(itertools.islice(source, len(rows))) for rows in windows]


def _token_slice(row: EncodedInput, length: int, processing: Processing) -> slice:
    """Locate a row's tokens among the `length` positions of its batch."""
    return slice(length - len(row), length) if processing.padding_side == "left" else slice(0, len(row))
