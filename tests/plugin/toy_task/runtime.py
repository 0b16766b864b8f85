"""Liking at inference time."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tokenizer import TextTokenizer
from tuneport.schema.artifact import Processing


class Parameters(inputs.Parameters):
    """Liking has none."""


class Task(RuntimeTask):
    """Answers `{"liked"}`, a probability."""

    parameters: ClassVar = Parameters

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    def parse_input(self, value: Any) -> str:
        text = inputs.read_text(value, accepts_pairs=False)
        assert isinstance(text, str)
        return text

    def encode(self, parsed_inputs: Sequence[str]) -> list[list[EncodedInput]]:
        return [[row] for row in self.tokenizer.encode(parsed_inputs)]

    def decode(
        self, parsed_input: str, rows: Sequence[EncodedInput], results: Sequence[RowOutputs], parameters: Parameters
    ) -> Any:
        return {"liked": round(float(probability(results[0]["logits"])), 6)}

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        return (prediction["liked"] > 0.5) == (other["liked"] > 0.5)


def probability(logits: Any) -> Any:
    """Map logits (…, 1) to probabilities (…)."""
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)[..., 0]))
