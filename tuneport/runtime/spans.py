"""The best span of a context among a window's logits. Training's evaluation uses it, too."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_ANSWER_TOKENS = 30
OUTSIDE = -1
"""Character offset of tokens that are not the context's."""


@dataclass(frozen=True)
class Span:
    """Characters from `start` up to `end` of a context, and the sum of the two logits."""

    score: float
    start: int
    end: int


def best_span(starts: npt.NDArray[Any], ends: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> Span:
    """Find the span with the largest sum of logits among all of at most `MAX_ANSWER_TOKENS` tokens of the context.

    `starts` and `ends` are a window's logits (tokens,), `offsets` (tokens, 2) its characters, `OUTSIDE` elsewhere.
    """
    # Tokens without characters, such as a byte-level blank, are no place to begin or end.
    context = np.flatnonzero((offsets[:, 0] != OUTSIDE) & (offsets[:, 1] > offsets[:, 0]))
    if not len(context):  # characters that the tokenizer drops
        return Span(-np.inf, 0, 0)
    longest = min(MAX_ANSWER_TOKENS, len(context))
    padded = np.pad(np.asarray(ends, np.float64)[context], (0, longest - 1), constant_values=-np.inf)
    # Row i holds the sums of all spans that begin with the context's token i: (tokens, longest).
    sums = np.asarray(starts, np.float64)[context, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
    first, more = np.unravel_index(int(sums.argmax()), sums.shape)
    begin, end = offsets[context[first], 0], offsets[context[first + more], 1]
    return Span(float(sums[first, more]), int(begin), int(end))
