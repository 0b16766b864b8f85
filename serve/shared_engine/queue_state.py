"""What waits in the engine process and how fast it runs, in shared memory: workers admit requests by it."""

import mmap
import os
from struct import Struct
from typing import NamedTuple

from ..admission_policy import AdmissionPolicy, Backlog, Measured
from ..row_queue import RowQueue, check_queue
from .memory import create_memory

FIELDS = Struct("<9d")


class QueueState(NamedTuple):
    """The state of a queue at one moment."""

    waiting_rows: float
    ahead_rows: float
    ahead_tokens: float
    rate_tokens: float
    rate_seconds: float
    last_tokens: float
    last_at: float
    is_backlogged: float
    batch_s: float

    @classmethod
    def of(cls, queue: RowQueue) -> "QueueState":
        """Read a queue."""
        return cls(len(queue), queue.backlog.rows, queue.backlog.tokens, *queue.policy.measured())


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
        FIELDS.pack_into(self._memory, 0, *QueueState.of(queue))

    def read(self) -> QueueState:
        """Return the state that was published last."""
        return QueueState(*FIELDS.unpack_from(self._memory, 0))


class RemoteQueue:
    """Admits requests to a queue of another process as `RowQueue` does."""

    def __init__(self, page: QueuePage, policy: AdmissionPolicy, max_rows: int) -> None:
        """`policy` gets what the engine process has measured."""
        self._page = page
        self._policy = policy
        self._max_rows = max_rows

    def __len__(self) -> int:
        """Count the rows that wait."""
        return int(self._page.read().waiting_rows)

    def check_capacity(self, rows: int, *, tokens: int = 0, deadline: float | None = None) -> None:
        """Raise what `RowQueue.check_capacity` raises."""
        state = self._page.read()
        self._policy.restore(Measured(*state[3:]))
        backlog = Backlog(int(state.ahead_rows), int(state.ahead_tokens))
        check_queue(self._policy, backlog, int(state.waiting_rows), self._max_rows, rows, tokens, deadline)
