"""Regression: a number, or several, for a text or a pair of texts."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tokenizer import Text, TextTokenizer
from tuneport.schema.artifact import Processing

AGREEMENT_TOLERANCE = 0.01
"""Difference up to which two scores agree, relative to the score, absolute below 1."""


class Parameters(inputs.Parameters):
    """The `parameters` of a request: none."""


class Task(RuntimeTask):
    """Reads texts or pairs, and returns the outputs (targets,)."""

    parameters: ClassVar = Parameters
    per_token: ClassVar = False
    agreement_means: ClassVar = (
        f"inputs whose scores are within {AGREEMENT_TOLERANCE:.0%} of torch's, of scores below 1 within "
        f"{AGREEMENT_TOLERANCE}"
    )

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        """Keep what parsing and encoding need."""
        self._processing = processing
        self._tokenizer = tokenizer

    def parse_input(self, value: Any) -> Text:
        """Check one input: a string, or an object with `text` (and `text_pair`)."""
        processing = self._processing
        return inputs.read_text(
            value, accepts_pairs=processing.accepts_pairs, accepts_single_texts=processing.accepts_single_texts
        )

    def encode(self, texts: Sequence[Text]) -> list[list[EncodedInput]]:
        """Return one row for each text, truncated to the model's maximum."""
        return [[row] for row in self._tokenizer.encode(texts)]

    def decode(
        self, parsed_input: Text, rows: Sequence[EncodedInput], outputs: Sequence[RowOutputs], parameters: Parameters
    ) -> Any:
        """Return `{"score"}`: a number, or a list of them where the model has several targets."""
        values = [round(float(value), 6) for value in outputs[0]["logits"]]
        return {"score": values if len(values) > 1 else values[0], **({"truncated": True} if rows[0].truncated else {})}

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Tell whether all scores are within `AGREEMENT_TOLERANCE`."""
        ours, theirs = np.atleast_1d(prediction["score"]), np.atleast_1d(other["score"])
        return bool(np.all(np.abs(ours - theirs) <= AGREEMENT_TOLERANCE * np.maximum(1, np.abs(theirs))))
