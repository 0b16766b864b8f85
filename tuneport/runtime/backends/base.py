"""The interface of a backend; imports no engine."""

from typing import Protocol

from tuneport.runtime.batch import Batch, Output


class Backend(Protocol):
    """One loaded graph."""

    streams: int
    """Number of batches that may run at the same time."""
    length_multiple: int
    """Lengths are padded to a multiple of this, for engines that compile for each new shape; else 1."""

    def run(self, batch: Batch) -> dict[str, Output]:
        """Run the graph on a batch and return every output by name, rows first; unknown feeds are ignored."""
