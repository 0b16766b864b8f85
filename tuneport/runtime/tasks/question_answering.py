"""Extractive question answering: the span of a context that answers a question.

A context of any length is read in overlapping windows. The score of "no answer" is the sum of the CLS token's logits in
the window where it is smallest: windows that don't contain the answer are right to score it high (as in training).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tuneport.errors import InputError
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.spans import OUTSIDE, Span, best_span
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tasks.text_classification import score
from tuneport.runtime.tokenizer import TextTokenizer
from tuneport.schema.artifact import Processing

CLS_TOKENS = ("[CLS]", "<s>", "<cls>", "[BOS]")


class Parameters(inputs.Parameters):
    """The `parameters` of a request."""

    top_k: int | None = Field(default=None, ge=1)
    """Return a list of the best answers of different windows, at most k."""


class Task(RuntimeTask):
    """Reads questions with contexts, and converts the logits of starts and ends (tokens,) to an answer."""

    parameters: ClassVar = Parameters
    per_token: ClassVar = True

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        """Keep what parsing and decoding need."""
        self._processing = processing
        self._tokenizer = tokenizer
        ids = (tokenizer.id_of(token) for token in CLS_TOKENS)
        self._cls_id = next((i for i in ids if i is not None), None)

    def parse_input(self, value: Any) -> tuple[str, str]:
        """Check one input: an object with `question` and `context`."""
        shape = 'an object with "question" and "context"'
        question, context = inputs.read_strings(value, ("question", "context"), shape)
        tokens_left, stride = self._tokenizer.tokens_left_for_pair(question), self._processing.doc_stride or 0
        if tokens_left <= stride:
            raise InputError(
                f"the question leaves {max(0, tokens_left)} tokens of a window to its context",
                f"shorten it until more than {stride} are left",
            )
        return question, context

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[list[EncodedInput]]:
        """Return the windows of each context, the whole question before each."""
        return self._tokenizer.windows(pairs)

    def decode(
        self,
        parsed_input: tuple[str, str],
        rows: Sequence[EncodedInput],
        outputs: Sequence[RowOutputs],
        parameters: Parameters,
    ) -> Any:
        """Return `{"answer", "score", "start", "end"}`; an empty answer where "no answer" scores higher than any span.

        The score is the span's probability: softmax of its start's and its end's logits over all windows, multiplied.
        """
        starts, ends = ([output[name] for output in outputs] for name in ("start_logits", "end_logits"))
        normalizers = _log_normalizer(starts) + _log_normalizer(ends)
        spans = {best_span(*window) for window in zip(starts, ends, map(_offsets, rows), strict=True)}
        best = sorted((span for span in spans if span.end > span.start), key=lambda span: -span.score)
        answers = [_answer(parsed_input[1], span, normalizers) for span in best]
        if self._processing.has_unanswerable or not best:
            cls_windows = zip(starts, ends, map(self._cls_position, rows), strict=True)
            no_answer = min(float(start[cls] + end[cls]) for start, end, cls in cls_windows)
            if not best or no_answer > best[0].score:
                probability = score(np.exp(no_answer - normalizers))
                answers.insert(0, {"answer": "", "score": probability, "start": 0, "end": 0})
        return answers[: parameters.top_k] if parameters.top_k else answers[0]

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Compare the answers and their positions."""
        return all(prediction[name] == other[name] for name in ("start", "end", "answer"))

    def _cls_position(self, row: EncodedInput) -> int:
        """Return the position of the CLS token: first for most models, last for XLNet; 0 if there is none."""
        return row.ids.index(self._cls_id) if self._cls_id in row.ids else 0


def _log_normalizer(logits: Sequence[Any]) -> float:
    """Return the logarithm of the softmax's denominator over all windows of an input."""
    values = np.concatenate([np.asarray(window, np.float64) for window in logits])
    return float(values.max() + np.log(np.exp(values - values.max()).sum()))


def _offsets(row: EncodedInput) -> Any:
    """Return each token's characters in the context, int64 (tokens, 2); `OUTSIDE` for those of another text."""
    assert row.encoding is not None
    tokens = zip(row.encoding.offsets, row.encoding.sequence_ids, strict=True)
    return np.array([offset if sequence == 1 else (OUTSIDE, OUTSIDE) for offset, sequence in tokens], np.int64)


def _answer(context: str, span: Span, normalizers: float) -> dict[str, Any]:
    """Return a span's answer, without the white space that byte-level tokens include."""
    text = context[span.start : span.end]
    start = span.start + len(text) - len(text.lstrip())
    probability = score(np.exp(span.score - normalizers))
    return {"answer": text.strip(), "score": probability, "start": start, "end": start + len(text.strip())}
