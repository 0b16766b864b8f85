"""Text classification at serving time: one of several labels, or any number of them, for a text or a pair."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tuneport.runtime import explain
from tuneport.runtime.batch import EncodedInput, Output, RowOutputs
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tokenizer import Text, TextTokenizer
from tuneport.schema.artifact import Processing

LIKELY = 0.5


class Parameters(inputs.Parameters):
    """What a request may ask for under `parameters`."""

    top_k: int | None = Field(default=None, ge=1)
    """Answer a list of the k likeliest labels, best first."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Leave out labels below this probability; a single label becomes null: the model abstains."""
    explain: bool = False
    """Add to each label what every word did for it."""


class Task(RuntimeTask):
    """Reads texts or pairs, and turns logits (labels,) into labels with probabilities."""

    parameters: ClassVar = Parameters
    per_token: ClassVar = False

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        """Keep what reading and decoding need."""
        self._labels = labels
        self._processing = processing
        self._tokenizer = tokenizer
        self._is_multi_label = processing.problem_type == "multi_label_classification"
        self._mask = explain.mask_id(tokenizer)

    def parse_input(self, value: Any) -> Text:
        """Check one input: a string, or an object with `text` (and `text_pair`)."""
        return inputs.read_text(value, accepts_pairs=self._processing.accepts_pairs)

    def encode(self, texts: Sequence[Text]) -> list[list[EncodedInput]]:
        """Return one row for each text, cut at the model's maximum."""
        return [[row] for row in self._tokenizer.encode(texts)]

    def request_rows(
        self, parsed_input: Text, rows: Sequence[EncodedInput], parameters: Parameters
    ) -> list[EncodedInput]:
        """Return the text's row and, if it is to be explained, the row with each of its words hidden."""
        if not parameters.explain:
            return list(rows)
        hidden = explain.occlusions(rows[0], explain.pieces(parsed_input, rows[0]), self._mask)
        return [rows[0], *hidden]

    def decode(
        self, given: Text, rows: Sequence[EncodedInput], results: Sequence[RowOutputs], parameters: Parameters
    ) -> Any:
        """Answer `{"label", "score"}`; a list of them, best first, for several labels or with `top_k`."""
        every = self.probabilities(np.stack([result["logits"] for result in results]))
        scores = every[0]
        is_list = self._is_multi_label or parameters.top_k is not None
        least = parameters.threshold
        if least is None:
            least = LIKELY if self._is_multi_label and parameters.top_k is None else 0.0
        best = np.argsort(-scores, kind="stable")[: parameters.top_k or (None if self._is_multi_label else 1)]
        answers = [self._answer(i, given, rows[0], every, parameters) for i in best if scores[i] >= least]
        if is_list:
            return answers
        return answers[0] if answers else self._answer(best[0], given, rows[0], every, parameters) | {"label": None}

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Compare labels."""
        return _labels_of(prediction) == _labels_of(other)

    def probabilities(self, logits: Output) -> Output:
        """Turn logits (…, labels) into probabilities, float32."""
        logits = logits / self._processing.temperature
        return sigmoid(logits) if self._is_multi_label else softmax(logits)

    def _answer(
        self, label: int, given: Text, row: EncodedInput, every: Output, parameters: Parameters
    ) -> dict[str, Any]:
        """`every` holds the probabilities (rows, labels) of the text, and of its occlusions where it is explained."""
        answer: dict[str, Any] = {"label": self._labels[label], "score": score(every[0, label])}
        if row.truncated:
            answer["truncated"] = True
        if parameters.explain:
            shown = explain.pieces(given, row)
            answer["explanation"] = explain.explanation(given, shown, every[0], every[1:], label)
        return answer


def softmax(logits: Output) -> Output:
    """Probabilities over the last axis, float32 in and out."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(logits: Output) -> Output:
    """Probabilities of independent labels, float32 in and out; stable for large |logits|."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)


def score(value: Any) -> float:
    """Round a score for an answer: six decimals are what float32 can tell."""
    return round(float(value), 6)


def _labels_of(prediction: Any) -> set[str]:
    return {each["label"] for each in (prediction if isinstance(prediction, list) else [prediction])}
