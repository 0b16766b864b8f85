"""Text classification at serving time: one of several labels, or any number of them, for a text or a pair."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from export.manifest import Processing
from serve.batcher import Result
from serve.engines import Output
from serve.tasks import inputs
from serve.tokenizer import Row, Text, TextTokenizer

LIKELY = 0.5


class Parameters(inputs.Parameters):
    """What a request may ask for under `parameters`."""

    top_k: int | None = Field(default=None, ge=1)
    """Answer a list of the k likeliest labels, best first."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Leave out labels below this probability; a single label becomes null: the model abstains."""


class Task:
    """Reads texts or pairs, and turns logits (labels,) into labels with probabilities."""

    parameters: ClassVar = Parameters
    per_token: ClassVar = False

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        """Keep what reading and decoding need."""
        self._labels = labels
        self._processing = processing
        self._tokenizer = tokenizer
        self._is_multi_label = processing.problem_type == "multi_label_classification"

    def read(self, value: Any) -> Text:
        """Check one input: a string, or an object with `text` (and `text_pair`)."""
        return inputs.read_text(value, accepts_pairs=self._processing.accepts_pairs)

    def encode(self, texts: Sequence[Text]) -> list[list[Row]]:
        """Return one row for each text, cut at the model's maximum."""
        return [[row] for row in self._tokenizer.encode(texts)]

    def decode(self, given: Text, rows: Sequence[Row], results: Sequence[Result], parameters: Parameters) -> Any:
        """Answer `{"label", "score"}`; a list of them, best first, for several labels or with `top_k`."""
        scores = self.probabilities(results[0]["logits"])
        is_list = self._is_multi_label or parameters.top_k is not None
        least = parameters.threshold
        if least is None:
            least = LIKELY if self._is_multi_label and parameters.top_k is None else 0.0
        best = np.argsort(-scores, kind="stable")[: parameters.top_k or (None if self._is_multi_label else 1)]
        cut = {"truncated": True} if rows[0].truncated else {}
        answers = [{"label": self._labels[i], "score": score(scores[i]), **cut} for i in best if scores[i] >= least]
        if is_list:
            return answers
        return answers[0] if answers else {"label": None, "score": score(scores[best[0]]), **cut}

    def same(self, prediction: Any, other: Any) -> bool:
        """Compare labels."""
        return _labels_of(prediction) == _labels_of(other)

    def probabilities(self, logits: Output) -> Output:
        """Turn logits (…, labels) into probabilities, float32."""
        logits = logits / self._processing.temperature
        return sigmoid(logits) if self._is_multi_label else softmax(logits)


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
