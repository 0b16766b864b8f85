"""Extractive question answering at serving time: the span of a context that answers a question.

A context of any length is read in overlapping windows. "No answer" scores what its CLS logits add up to in the
window that believes in it least, since a window without the answer says so rightly (as in training's evaluation).
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
    """What a request may ask for under `parameters`."""

    top_k: int | None = Field(default=None, ge=1)
    """Answer a list of the best answers of different windows, at most k."""


class Task(RuntimeTask):
    """Reads questions with contexts, and turns logits of starts and ends (tokens,) into an answer."""

    parameters: ClassVar = Parameters
    per_token: ClassVar = True

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        """Keep what reading and decoding need."""
        self._processing = processing
        self._tokenizer = tokenizer
        ids = (tokenizer.id_of(token) for token in CLS_TOKENS)
        self._cls_id = next((i for i in ids if i is not None), None)

    def parse_input(self, value: Any) -> tuple[str, str]:
        """Check one input: an object with `question` and `context`."""
        shape = 'an object with "question" and "context"'
        question, context = inputs.read_strings(value, ("question", "context"), shape)
        room, least = self._tokenizer.room_beside(question), self._processing.doc_stride or 0
        if room <= least:
            raise InputError(
                f"the question leaves {max(0, room)} tokens of a window to its context",
                f"shorten it until more than {least} are left",
            )
        return question, context

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[list[EncodedInput]]:
        """Return the windows of each context, the whole question before each."""
        return self._tokenizer.windows(pairs)

    def decode(
        self,
        given: tuple[str, str],
        rows: Sequence[EncodedInput],
        results: Sequence[RowOutputs],
        parameters: Parameters,
    ) -> Any:
        """Answer `{"answer", "score", "start", "end"}`; an empty answer where none is better than the best span.

        The score is the share of all the windows' starts and ends, as probabilities, that fall on the span.
        """
        starts, ends = ([result[name] for result in results] for name in ("start_logits", "end_logits"))
        shares = _Shares(starts), _Shares(ends)
        spans = [best_span(s, e, _offsets(row)) for s, e, row in zip(starts, ends, rows, strict=True)]
        found = sorted({span for span in spans if span.end > span.start}, key=lambda span: -span.score)
        answers = [_answer(given[1], span, shares) for span in found]
        if self._processing.has_unanswerable or not found:
            places = [self._cls_place(row) for row in rows]
            sums = [float(s[at] + e[at]) for s, e, at in zip(starts, ends, places, strict=True)]
            if not found or min(sums) > found[0].score:
                least = min(sums)
                answers.insert(
                    0, {"answer": "", "score": score(shares[0].of_sum(least, shares[1])), "start": 0, "end": 0}
                )
        return answers[: parameters.top_k] if parameters.top_k else answers[0]

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Compare the places of answers."""
        return all(prediction[name] == other[name] for name in ("start", "end", "answer"))

    def _cls_place(self, row: EncodedInput) -> int:
        """Find the CLS token: first for most, last for XLNet; a tokenizer without one lends its first token."""
        return row.ids.index(self._cls_id) if self._cls_id in row.ids else 0


class _Shares:
    """Log of the softmax's denominator over all windows of an input."""

    def __init__(self, logits: Sequence[Any]) -> None:
        """Keep it for the score of spans."""
        every = np.concatenate([np.asarray(window, np.float64) for window in logits])
        self.log_sum = float(every.max() + np.log(np.exp(every - every.max()).sum()))

    def of_sum(self, logit_sum: float, ends: "_Shares") -> float:
        """Turn a start's and an end's logits, added up, into a probability."""
        return float(np.exp(logit_sum - self.log_sum - ends.log_sum))


def _offsets(row: EncodedInput) -> Any:
    """Return each token's characters in the context, int64 (tokens, 2); `OUTSIDE` for those of another text."""
    assert row.encoding is not None
    places = zip(row.encoding.offsets, row.encoding.sequence_ids, strict=True)
    return np.array([offset if sequence == 1 else (OUTSIDE, OUTSIDE) for offset, sequence in places], np.int64)


def _answer(context: str, span: Span, shares: tuple[_Shares, _Shares]) -> dict[str, Any]:
    """Leave out the white space that byte-level tokens carry."""
    text = context[span.start : span.end]
    start = span.start + len(text) - len(text.lstrip())
    share = shares[0].of_sum(span.score, shares[1])
    return {"answer": text.strip(), "score": score(share), "start": start, "end": start + len(text.strip())}
