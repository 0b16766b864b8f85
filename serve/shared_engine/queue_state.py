"""What waits in the engine process and how fast it runs, in shared memory: workers admit requests by it."""

import mmap
import os
from struct import Struct
from typing import NamedTuple

from ..admission_policy import AdmissionPolicy, Backlog, Measured
from ..row_queue import RowQueue, check_queue
from .memory import create_memory

FIELDS = Struct(f"<{3 + len(Measured._fields)}d")
"""The rows that wait, the two fields of `Backlog`, and those of `Measured`."""


class QueueState(NamedTuple):
    """The state of a queue at one moment."""

    waiting_rows: int
    backlog: Backlog
    measured: Measured


class QueuePage:
    """The memory of one engine process that has its queue's state.

    A reader may see a state of which some figures are older than others: they are only the base of an estimate.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        """Map the memory of a descriptor, which is closed; without one, create it."""
        self.descriptor = create_memory("queue", FIELDS.size) if descriptor is None else descriptor
        self._memory = mmap.mmap(self.descriptor, FIELDS.size)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Close the descriptor of memory that was created here; what is mapped stays."""
        os.close(self.descriptor)

    def publish(self, queue: RowQueue) -> None:
        """Write a queue's state."""
        backlog = queue.backlog
        FIELDS.pack_into(self._memory, 0, len(queue), backlog.rows, backlog.tokens, *queue.policy.measured())

    def read(self) -> QueueState:
        """Return the state that was published last."""
        waiting, rows, tokens, *measured = FIELDS.unpack_from(self._memory, 0)
        return QueueState(int(waiting), Backlog(int(rows), int(tokens)), Measured(*measured))


class RemoteQueue:
    """Admits requests to a queue of another process as `RowQueue` does."""

    def __init__(self, page: QueuePage, policy: AdmissionPolicy, max_rows: int) -> None:
        """`policy` gets what the engine process has measured."""
        self._page = page
        self._policy = policy
        self._max_rows = max_rows

    def __len__(self) -> int:
        """Count the rows that wait."""
        return self._page.read().waiting_rows

    def check_capacity(self, rows: int, *, tokens: int = 0, deadline: float | None = None) -> None:
        """Raise what `RowQueue.check_capacity` raises."""
        state = self._page.read()
        self._policy.restore(state.measured)
        check_queue(self._policy, state.backlog, state.waiting_rows, self._max_rows, rows, tokens, deadline)
