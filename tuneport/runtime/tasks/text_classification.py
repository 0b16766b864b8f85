"""Text classification: one of several labels, or any number of them, for a text or a pair of texts."""

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

MULTI_LABEL_THRESHOLD = 0.5
"""Probability from which a label counts where an input may have several."""


class Parameters(inputs.Parameters):
    """The `parameters` of a request."""

    top_k: int | None = Field(default=None, ge=1)
    """Return a list of the k likeliest labels, best first."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Omit labels below this probability; a single label becomes null."""
    explain: bool = False
    """Add to each label the effect of every word on its probability."""


class Task(RuntimeTask):
    """Reads texts or pairs, and converts logits (labels,) to labels with probabilities."""

    parameters: ClassVar = Parameters
    per_token: ClassVar = False

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        """Keep what parsing and decoding need."""
        self._labels = labels
        self._processing = processing
        self._tokenizer = tokenizer
        self._is_multi_label = processing.problem_type == "multi_label_classification"
        self._mask = explain.mask_id(tokenizer)

    def parse_input(self, value: Any) -> Text:
        """Check one input: a string, or an object with `text` (and `text_pair`)."""
        return inputs.read_text(value, accepts_pairs=self._processing.accepts_pairs)

    def encode(self, texts: Sequence[Text]) -> list[list[EncodedInput]]:
        """Return one row for each text, truncated to the model's maximum."""
        return [[row] for row in self._tokenizer.encode(texts)]

    def encode_request(self, texts: Sequence[Text], parameters: Any) -> list[list[EncodedInput]]:
        """Encode as `encode` does; only an explanation needs the words' positions, and further rows."""
        if parameters.explain:
            return super().encode_request(texts, parameters)
        return [[row] for row in self._tokenizer.encode(texts, with_positions=False)]

    def request_rows(
        self, parsed_input: Text, rows: Sequence[EncodedInput], parameters: Parameters
    ) -> list[EncodedInput]:
        """Return the text's row and the row with each of its words hidden, for an explanation."""
        hidden = explain.occlusions(rows[0], explain.pieces(parsed_input, rows[0]), self._mask)
        return [rows[0], *hidden]

    def decode(
        self, parsed_input: Text, rows: Sequence[EncodedInput], outputs: Sequence[RowOutputs], parameters: Parameters
    ) -> Any:
        """Return `{"label", "score"}`; a list of them, best first, for several labels or with `top_k`."""
        probabilities = self.probabilities(np.stack([output["logits"] for output in outputs]))
        scores = probabilities[0]

        def prediction(label: int) -> dict[str, Any]:
            return self._prediction(label, parsed_input, rows[0], probabilities, parameters)

        threshold = parameters.threshold
        if threshold is None:
            threshold = MULTI_LABEL_THRESHOLD if self._is_multi_label and parameters.top_k is None else 0.0
        best = np.argsort(-scores, kind="stable")[: parameters.top_k or (None if self._is_multi_label else 1)]
        predictions = [prediction(label) for label in best if scores[label] >= threshold]
        if self._is_multi_label or parameters.top_k is not None:
            return predictions
        return predictions[0] if predictions else prediction(best[0]) | {"label": None}

    def decode_request(
        self,
        parsed_inputs: Sequence[Text],
        windows: Sequence[Sequence[EncodedInput]],
        outputs: Sequence[Sequence[RowOutputs]],
        parameters: Any,
    ) -> list[Any]:
        """Decode as `decode` does; without parameters, and with one label an input, all inputs at once."""
        if not outputs or self._is_multi_label or parameters != DEFAULTS:
            return super().decode_request(parsed_inputs, windows, outputs, parameters)
        probabilities = self.probabilities(np.array([rows[0]["logits"] for rows in outputs]))
        # Without argmax, which releases Python's lock and then waits for other threads to return it.
        parts = zip(probabilities.tolist(), windows, strict=True)
        return [self._labelled(row.index(best := max(row)), best, rows[0]) for row, rows in parts]

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Compare labels."""
        return _labels_of(prediction) == _labels_of(other)

    def probabilities(self, logits: Output) -> Output:
        """Convert logits (…, labels) to probabilities, float32, with the model's temperature."""
        logits = logits / self._processing.temperature
        return sigmoid(logits) if self._is_multi_label else softmax(logits)

    def _prediction(
        self, label: int, parsed_input: Text, row: EncodedInput, probabilities: Output, parameters: Parameters
    ) -> dict[str, Any]:
        """`probabilities` (rows, labels) are those of the text and, for an explanation, of its occlusions."""
        prediction = self._labelled(label, probabilities[0, label], row)
        if parameters.explain:
            pieces = explain.pieces(parsed_input, row)
            prediction["explanation"] = explain.explanation(
                parsed_input, pieces, probabilities[0], probabilities[1:], label
            )
        return prediction

    def _labelled(self, label: int, probability: Any, row: EncodedInput) -> dict[str, Any]:
        prediction: dict[str, Any] = {"label": self._labels[label], "score": score(probability)}
        if row.truncated:
            prediction["truncated"] = True
        return prediction


DEFAULTS = Parameters()


def softmax(logits: Output) -> Output:
    """Return probabilities over the last axis, float32 in and out."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def sigmoid(logits: Output) -> Output:
    """Return probabilities of independent labels, float32 in and out; stable for large |logits|."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float32)


def score(value: Any) -> float:
    """Round a score to six decimals, the precision of float32."""
    return round(float(value), 6)


def _labels_of(prediction: Any) -> set[str]:
    return {each["label"] for each in (prediction if isinstance(prediction, list) else [prediction])}
