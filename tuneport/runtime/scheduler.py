"""Which rows run together: a pure function of their lengths.

A padded batch costs its padded tokens (rows x longest row), so rows of similar length belong together; a packed one
costs its tokens, so that rows run in the order of their arrival. A batch has a fixed overhead, so that larger ones are
better. The best size differs between engines, and the export measures it for each variant
(`Execution.max_batch_tokens`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from tuneport.schema.artifact import Device, Execution, Layout

DEFAULT_TOKENS = 1024
BATCH_TOKENS: dict[Device, tuple[int, ...]] = {
    "cpu": (128, 512),
    "cuda": (1024, 4096, 16384, 65536),
    "tensorrt": (1024, 4096, 16384),
}
"""Token limits to try on a device: a few short texts keep a CPU core busy, but not a GPU."""
FAST_ENOUGH = 0.97
"""Share of the highest throughput at which a smaller batch is preferred, because its rows wait for fewer others."""
OVERHEAD = 1 / 16
"""Fixed overhead of a batch, as a share of the token limit."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The largest batch of an engine, and the lengths that rows are padded to."""

    tokens: int = DEFAULT_TOKENS
    """What a batch may cost; a single longer row still runs, alone."""
    length_multiple: int = 1
    """Lengths are padded to a multiple of this, because some engines compile for each new shape."""
    longest: int = 2**31
    """The model's maximum, which padding never exceeds."""
    layout: Layout = "padded"

    @classmethod
    def of(cls, execution: Execution) -> "BatchLimits":
        """Return the limits of a variant, before its engine has added what lengths it pads to."""
        return cls(1 if execution.single_row_batches else execution.max_batch_tokens, layout=execution.layout)

    @property
    def runs_rows_alone(self) -> bool:
        """Return whether each row is a batch of its own, which has no padding."""
        return self.tokens == 1

    def cost(self, lengths: Sequence[int]) -> int:
        """Return the tokens that a batch computes: with padding in the padded layout, without in the packed one."""
        return sum(lengths) if self.layout == "packed" else len(lengths) * self.padded(max(lengths))

    def padded(self, length: int) -> int:
        """Return the length that a row or a batch is padded to."""
        return max(length, min(-(-length // self.length_multiple) * self.length_multiple, self.longest))


def candidate_limits(limits: BatchLimits, device: Device) -> tuple[BatchLimits, ...]:
    """Return the limits to try on a device, in ascending order; all but their tokens are those of `limits`."""
    return tuple(replace(limits, tokens=tokens) for tokens in BATCH_TOKENS[device])


def fastest_limits(candidates: Sequence[BatchLimits], rows_per_s: Sequence[float]) -> BatchLimits:
    """Return the smallest limits whose throughput is at least `FAST_ENOUGH` of the highest.

    `rows_per_s` has the throughputs of the first candidates; the others were not measured.
    """
    fast_enough = FAST_ENOUGH * max(rows_per_s)
    measured = zip(candidates, rows_per_s, strict=False)
    return next(limits for limits, speed in measured if speed >= fast_enough)


def pack_batches(lengths: Sequence[int], limits: BatchLimits) -> list[list[int]]:
    """Split a complete set of rows into batches of similar length, each within the limits.

    Returns indices into `lengths`, shortest rows first.
    """
    batches: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        tokens += lengths[index]
        padded_tokens = (len(batches[-1]) + 1) * limits.padded(lengths[index]) if batches else 0
        if batches and (tokens if limits.layout == "packed" else padded_tokens) <= limits.tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
            tokens = lengths[index]
    return batches


def select_batch(lengths: Sequence[int], limits: BatchLimits) -> list[int]:
    """Select the next batch from the rows that wait: the first row, with the rows that make its batch the best.

    A batch costs its padded tokens and a fixed overhead. The best one has the largest share of real tokens in its cost;
    without padding that is the largest one. Returns indices into `lengths`: of a padded batch the shortest rows first,
    of a packed one in the order of arrival.
    """
    if limits.layout == "packed":
        return _select_packed(lengths, limits)
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
        # Each shorter row improves the share less than the one before: stop at the first that lowers it.
        while first > 0 and (last + 2 - first) * padded <= limits.tokens:
            larger = _share(before[last + 1] - before[first - 1], (last + 2 - first) * padded, limits)
            if larger < share:
                break
            first, share = first - 1, larger
        if share > best:
            best, chosen = share, (first, last + 1)
    rows = order[slice(*chosen)]
    if 0 not in rows:  # another row of the same length is: the first one has waited longer
        rows[rows.index(next(i for i in rows if lengths[i] == lengths[0]))] = 0
    return rows


def _select_packed(lengths: Sequence[int], limits: BatchLimits) -> list[int]:
    """Take rows in their order as long as they fit; a row that does not fit lets shorter ones pass."""
    chosen, tokens = [0], lengths[0]
    for index in range(1, len(lengths)):
        if tokens + lengths[index] <= limits.tokens:
            chosen.append(index)
            tokens += lengths[index]
    return chosen


def _share(tokens: int, padded_tokens: int, limits: BatchLimits) -> float:
    return tokens / (padded_tokens + OVERHEAD * limits.tokens)
