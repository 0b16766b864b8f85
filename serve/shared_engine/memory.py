"""Shared memory for rows and their outputs, which has no name: it ends with the processes that have it open.

A worker allocates a block for each request and frees it when the engine has answered. Blocks are taken from segments
one behind the other; a segment is used again from its start when all of its blocks are free.
"""

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ITEM_BYTES = 4
"""Rows are int32, outputs float32."""
SEGMENT_ITEMS = 2**18
"""Items of a segment, 1 MiB; a request that needs more has a segment of its own."""
MAX_IDLE_SEGMENTS = 4
"""Segments without blocks that are kept, of the usual size."""


class Segment:
    """A piece of shared memory, seen as int32 and as float32."""

    def __init__(self, descriptor: int, items: int) -> None:
        """Map the memory behind a descriptor, which remains the caller's."""
        memory = mmap.mmap(descriptor, items * ITEM_BYTES)  # unmapped when both arrays are gone
        self.items = items
        self.ints = np.frombuffer(memory, np.int32)
        self.floats = np.frombuffer(memory, np.float32)
        self.used = 0
        """Items from the start that were allocated."""
        self.blocks = 0


@dataclass(frozen=True, slots=True)
class Block:
    """Items of a segment that belong to one request."""

    number: int
    """The segment's."""
    segment: Segment
    offset: int


class Arena:
    """The segments of one worker."""

    def __init__(self, added: Callable[[int, int, int], None], dropped: Callable[[int], None]) -> None:
        """`added` gets a new segment's number, items and descriptor, which it closes; `dropped` an old one's number."""
        self._added = added
        self._dropped = dropped
        self._segments: dict[int, Segment] = {}
        self._current = 0
        self._count = 0

    def allocate(self, items: int) -> Block:
        """Return a block; raises OSError if the system has no memory for a new segment."""
        segment = self._segments.get(self._current)
        if segment is None or segment.used + items > segment.items:
            self._current = self._idle(items) or self._add(items)
            segment = self._segments[self._current]
        block = Block(self._current, segment, segment.used)
        segment.used += items
        segment.blocks += 1
        return block

    def free(self, block: Block) -> None:
        """Give a block back."""
        segment = block.segment
        segment.blocks -= 1
        if segment.blocks:
            return
        segment.used = 0
        idle = sum(not each.blocks for each in self._segments.values())
        if segment.items > SEGMENT_ITEMS or idle > MAX_IDLE_SEGMENTS:
            del self._segments[block.number]
            self._dropped(block.number)

    def clear(self) -> None:
        """Give up all segments, because the engine has gone and no block is used any more."""
        self._segments.clear()

    def _idle(self, items: int) -> int | None:
        found = (number for number, each in self._segments.items() if not each.blocks and each.items >= items)
        return next(found, None)

    def _add(self, items: int) -> int:
        self._count += 1
        items = max(items, SEGMENT_ITEMS)
        descriptor = create_memory("rows", items * ITEM_BYTES)
        self._segments[self._count] = Segment(descriptor, items)
        self._added(self._count, items, descriptor)
        return self._count


def create_memory(name: str, size: int) -> int:
    """Return the descriptor of new shared memory, zeros; `name` is only for /proc. Pages count when they are used."""
    descriptor = os.memfd_create(f"tuneport-{name}")
    os.ftruncate(descriptor, size)
    return descriptor
