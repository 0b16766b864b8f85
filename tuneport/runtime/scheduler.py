"""Which rows run together. Pure policy: lengths in, batches out.

The cost of a batch is rows x longest row, so rows of like length belong together; and a batch costs something by
itself, so rows belong together at all. Where the two meet differs from engine to engine and was measured for each
variant (`Timing.batch_tokens`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

DEFAULT_TOKENS = 1024
OVERHEAD = 1 / 16
"""What starting a batch costs, as a share of the limits: one that is big enough loses little to it."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large an engine's batches may be, and of which lengths."""

    tokens: int = DEFAULT_TOKENS
    """Padded tokens (rows x longest row) of a batch; one longer row still runs, alone."""
    length_multiple: int = 1
    """Lengths are padded to a multiple of it: an engine may have to prepare for each shape that it meets."""
    longest: int = 2**31
    """But never over this, the model's maximum."""

    def padded(self, length: int) -> int:
        """Return the length that a row or a batch is padded to."""
        return max(length, min(-(-length // self.length_multiple) * self.length_multiple, self.longest))


def pack_batches(lengths: Sequence[int], limits: BatchLimits) -> list[list[int]]:
    """Split rows that are all there into batches of like length, each within the limits.

    Returns indices into `lengths`, shortest rows first.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * limits.padded(lengths[index]) <= limits.tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def select_batch(lengths: Sequence[int], limits: BatchLimits) -> list[int]:
    """Choose what runs next of the rows that wait: the first of them, with those that make its batch the best.

    The best batch computes the largest share of real tokens, its own overhead and all padding counted. Returns
    indices into `lengths`, shortest rows first.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ascending = [lengths[i] for i in order]
    lowest, highest = bisect_left(ascending, lengths[0]), bisect_right(ascending, lengths[0]) - 1
    before = [0, *accumulate(ascending)]
    best, chosen = -1.0, (lowest, lowest + 1)
    for last in range(lowest, len(order)):
        first, padded = min(last, highest), limits.padded(ascending[last])
        if last > first and (last + 1 - first) * padded > limits.tokens:
            break
        share = _share(before[last + 1] - before[first], (last + 1 - first) * padded, limits)
        # Each shorter row adds less than the one before, so the first that makes it worse is the end.
        while first > 0 and (last + 2 - first) * padded <= limits.tokens:
            larger = _share(before[last + 1] - before[first - 1], (last + 2 - first) * padded, limits)
            if larger < share:
                break
            first, share = first - 1, larger
        if share > best:
            best, chosen = share, (first, last + 1)
    rows = order[slice(*chosen)]
    if 0 not in rows:  # one as long as it is: it has waited longer
        rows[rows.index(next(i for i in rows if lengths[i] == lengths[0]))] = 0
    return rows


def _share(tokens: int, padded_tokens: int, limits: BatchLimits) -> float:
    return tokens / (padded_tokens + OVERHEAD * limits.tokens)
