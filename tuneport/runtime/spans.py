"""The best answer span of a window, for inference and for the evaluation in training."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_ANSWER_TOKENS = 30
OUTSIDE = -1
"""Character offset of tokens outside of the context."""


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive) of a context, and the sum of the start's and the end's logits."""

    score: float
    start: int
    end: int


def best_span(starts: npt.NDArray[Any], ends: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> Span:
    """Find the span with the largest sum of logits among all of at most `MAX_ANSWER_TOKENS` tokens of the context.

    `starts` and `ends` are a window's logits (tokens,), `offsets` (tokens, 2) the characters of its tokens, or
    `OUTSIDE`. Without any token of the context, the span is empty and its score is -inf.
    """
    # A span neither begins nor ends at a token without characters, such as a byte-level space.
    context = np.flatnonzero((offsets[:, 0] != OUTSIDE) & (offsets[:, 1] > offsets[:, 0]))
    if not len(context):  # the tokenizer dropped all characters
        return Span(-np.inf, 0, 0)
    longest = min(MAX_ANSWER_TOKENS, len(context))
    padded = np.pad(np.asarray(ends, np.float64)[context], (0, longest - 1), constant_values=-np.inf)
    # sums[i, j]: of the span from the context's token i to its token i + j; (tokens, longest).
    sums = np.asarray(starts, np.float64)[context, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
    first, extra = np.unravel_index(int(sums.argmax()), sums.shape)
    start, end = offsets[context[first], 0], offsets[context[first + extra], 1]
    return Span(float(sums[first, extra]), int(start), int(end))
