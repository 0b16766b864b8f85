"""Regression at serving time: a number, or several, for a text or a pair."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tokenizer import Text, TextTokenizer
from tuneport.schema.artifact import Processing

CLOSE = 0.01
"""Relative to a score's size, or absolute below 1: two scores so near say the same."""


class Parameters(inputs.Parameters):
    """Regression has none."""


class Task(RuntimeTask):
    """Reads texts or pairs, and passes on the numbers (targets,)."""

    parameters: ClassVar = Parameters
    per_token: ClassVar = False

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        """Keep what reading needs."""
        self._processing = processing
        self._tokenizer = tokenizer

    def parse_input(self, value: Any) -> Text:
        """Check one input: a string, or an object with `text` (and `text_pair`)."""
        return inputs.read_text(value, accepts_pairs=self._processing.accepts_pairs)

    def encode(self, texts: Sequence[Text]) -> list[list[EncodedInput]]:
        """Return one row for each text, cut at the model's maximum."""
        return [[row] for row in self._tokenizer.encode(texts)]

    def decode(
        self, given: Text, rows: Sequence[EncodedInput], results: Sequence[RowOutputs], parameters: Parameters
    ) -> Any:
        """Answer `{"score"}`: a number, or a list of them where the model has several targets."""
        values = [round(float(value), 6) for value in results[0]["logits"]]
        return {"score": values if len(values) > 1 else values[0], **({"truncated": True} if rows[0].truncated else {})}

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Tell whether all scores are within `CLOSE` of each other."""
        ours, theirs = np.atleast_1d(prediction["score"]), np.atleast_1d(other["score"])
        return bool(np.all(np.abs(ours - theirs) <= CLOSE * np.maximum(1, np.abs(theirs))))
