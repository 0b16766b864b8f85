"""How rows and their outputs lie in a block of shared memory, and what the engine says of itself.

A block has the rows' lengths, the token ids of all rows, their type ids, and room for the outputs of all rows.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from math import prod
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tuneport.errors import EngineError
from tuneport.runtime.batch import EncodedInput, Output, RowOutputs
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits

SAMPLE_TOKENS = 4
"""Length of the row that runs to see the outputs' shapes."""


@dataclass(frozen=True)
class RowFormat:
    """The outputs of a row, which follow from its length."""

    per_token: bool
    """Whether the first axis of each output has the row's tokens."""
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """Name and shape of each output, float32, without the axis of tokens."""

    @classmethod
    def of(cls, runner: ModelRunner, token: int) -> Self:
        """Run a row of one repeated token; raises EngineError for outputs that are not float32."""
        [outputs] = runner.run_batch([EncodedInput([token] * SAMPLE_TOKENS, [0] * SAMPLE_TOKENS, False)])
        per_token = runner.task.per_token
        for name, values in outputs.items():
            if values.dtype != np.float32 or (per_token and values.shape[:1] != (SAMPLE_TOKENS,)):
                problem = f"workers cannot share an engine whose output {name} is {values.dtype} {values.shape}"
                raise EngineError(problem, "unset TUNEPORT_ENGINES")
        return cls(per_token, tuple((name, values.shape[int(per_token) :]) for name, values in outputs.items()))

    def items(self, rows: Sequence[EncodedInput]) -> int:
        """Return the items of a block for these rows."""
        tokens = sum(map(len, rows))
        values = sum(prod(shape) for _, shape in self.shapes)
        return len(rows) + 2 * tokens + values * (tokens if self.per_token else len(rows))

    def write_rows(self, items: npt.NDArray[np.int32], offset: int, rows: Sequence[EncodedInput]) -> None:
        """Write lengths and tokens."""
        parts = chain(map(len, rows), *(row.ids for row in rows), *(row.type_ids for row in rows))
        content = array("i", parts)
        items[offset : offset + len(content)] = content

    def read_rows(self, items: npt.NDArray[np.int32], offset: int, count: int) -> list[EncodedInput]:
        """Copy the rows: the worker may use its block again while the engine still runs a row that was cancelled."""
        lengths = items[offset : offset + count].tolist()
        start, tokens = offset + count, sum(lengths)
        ids, types = items[start : start + tokens].tolist(), items[start + tokens : start + 2 * tokens].tolist()
        spans = pairwise(accumulate(lengths, initial=0))
        return [EncodedInput(ids[first:last], types[first:last], False) for first, last in spans]

    def write_outputs(
        self, values: npt.NDArray[np.float32], offset: int, rows: Sequence[EncodedInput], outputs: Sequence[RowOutputs]
    ) -> None:
        """Write the outputs behind the rows; raises ValueError for outputs of another shape."""
        at = offset + len(rows) + 2 * sum(map(len, rows))
        for row, row_outputs in zip(rows, outputs, strict=True):
            for name, shape in self._shapes_of(row):
                output = row_outputs[name]
                if output.shape != shape:
                    raise ValueError(f"the output {name} has the shape {output.shape}, and not {shape}")
                values[at : at + output.size] = output.ravel()
                at += output.size

    def read_outputs(
        self, values: npt.NDArray[np.float32], offset: int, rows: Sequence[EncodedInput]
    ) -> list[RowOutputs]:
        """Copy the outputs of the rows."""
        first = offset + len(rows) + 2 * sum(map(len, rows))
        content: Output = values[first : offset + self.items(rows)].copy()
        results: list[RowOutputs] = []
        at = 0
        for row in rows:
            result: RowOutputs = {}
            for name, shape in self._shapes_of(row):
                size = prod(shape)
                result[name] = content[at : at + size].reshape(shape)
                at += size
            results.append(result)
        return results

    def _shapes_of(self, row: EncodedInput) -> list[tuple[str, tuple[int, ...]]]:
        axis = (len(row),) if self.per_token else ()
        return [(name, axis + shape) for name, shape in self.shapes]


@dataclass(frozen=True)
class Greeting:
    """What the engine process tells a worker that connects."""

    limits: BatchLimits
    streams: int
    row_format: RowFormat
    manifest_sha256: str | None
    """Of the artifact that the engine has opened."""

    @classmethod
    def parse(cls, content: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` made of one, through JSON."""
        shapes = tuple((name, tuple(shape)) for name, shape in content["row_format"]["shapes"])
        row_format = RowFormat(content["row_format"]["per_token"], shapes)
        return cls(BatchLimits(**content["limits"]), content["streams"], row_format, content["manifest_sha256"])
