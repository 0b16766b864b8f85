"""The runtime's data types: encoded inputs, batches, and the outputs of each row."""

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from tuneport.schema.artifact import Layout, Processing

Ids = npt.NDArray[np.int64] | npt.NDArray[np.int32]
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
    """Input arrays by name; in the padded layout each int64 (rows, padded length), in the packed one see
    `packed_batch`."""
    slices: tuple[slice, ...]
    """For each row, the positions of its tokens: in the padded layout on the token axis of the row, in the packed one
    among all tokens."""
    layout: Layout = "padded"

    def split(self, outputs: Mapping[str, Output], *, per_token: bool) -> list[RowOutputs]:
        """Return the outputs of each row; with `per_token`, only those of its own tokens, without padding.

        `outputs` have rows on their first axis; with `per_token` tokens are on their second one and, in the packed
        layout, on their only one.
        """
        rows = range(len(self.slices))
        if not per_token:
            return [{name: values[i] for name, values in outputs.items()} for i in rows]
        if self.layout == "packed":
            return [{name: values[self.slices[i]] for name, values in outputs.items()} for i in rows]
        return [{name: values[i][self.slices[i]] for name, values in outputs.items()} for i in rows]


def padded_batch(rows: Sequence[EncodedInput], processing: Processing, length: int = 0) -> Batch:
    """Stack rows into `input_ids`, `attention_mask` and `token_type_ids`, int64 (rows, longest row or `length`)."""
    shape = (len(rows), max(length, *map(len, rows)))
    ids, mask = np.full(shape, processing.pad_token_id, np.int64), np.zeros(shape, np.int64)
    types = np.full(shape, processing.pad_token_type_id, np.int64)
    slices = tuple(_token_slice(row, shape[1], processing) for row in rows)
    for i, (row, positions) in enumerate(zip(rows, slices, strict=True)):
        ids[i, positions], mask[i, positions], types[i, positions] = row.ids, 1, row.type_ids
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return Batch(feeds, slices)


def packed_batch(rows: Sequence[EncodedInput]) -> Batch:
    """Put the tokens of all rows one behind the other, without padding.

    The feeds are int32: `input_ids`, `token_type_ids` and `position_ids` (1, tokens); `cumulative_lengths` (rows + 1,),
    `row_starts` (rows,); and `token_offset` (rows, longest), where each token of the padded batch would be, followed by
    where its padding would be. `attention_mask`, int64 (rows, longest), is that of the padded batch.
    """
    lengths = np.array([len(row) for row in rows], np.int32)
    cumulative = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    is_token = np.arange(lengths.max()) < lengths[:, None]
    padded_positions = np.arange(is_token.size, dtype=np.int32).reshape(is_token.shape)
    offset = np.concatenate([padded_positions[is_token], padded_positions[~is_token]]).reshape(is_token.shape)
    positions = np.arange(cumulative[-1], dtype=np.int32) - np.repeat(cumulative[:-1], lengths)
    feeds = {
        "input_ids": np.fromiter(itertools.chain.from_iterable(row.ids for row in rows), np.int32)[None],
        "token_type_ids": np.fromiter(itertools.chain.from_iterable(row.type_ids for row in rows), np.int32)[None],
        "position_ids": positions[None],
        "token_offset": offset,
        "cumulative_lengths": cumulative,
        "row_starts": cumulative[:-1],
        "attention_mask": is_token.astype(np.int64),
    }
    slices = tuple(slice(start, stop) for start, stop in itertools.pairwise(cumulative.tolist()))
    return Batch(feeds, slices, layout="packed")


def group_by_input(results: Sequence[Any], windows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Regroup the results of all rows by input; `windows` has the rows of each input."""
    source = iter(results)
    return [list(itertools.islice(source, len(rows))) for rows in windows]


def _token_slice(row: EncodedInput, length: int, processing: Processing) -> slice:
    """Return the positions of a row's tokens in a batch of `length` positions a row."""
    return slice(length - len(row), length) if processing.padding_side == "left" else slice(0, len(row))
