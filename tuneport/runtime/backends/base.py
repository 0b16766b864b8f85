"""What a backend is. No engine is imported here."""

from typing import Protocol

from tuneport.runtime.batch import Batch, Output


class Backend(Protocol):
    """One loaded graph."""

    streams: int
    """How many batches may run at a time."""
    length_multiple: int
    """Lengths are padded to a multiple of it, where the engine prepares itself for every new shape; 1 elsewhere."""

    def run(self, batch: Batch) -> dict[str, Output]:
        """Run the graph on a batch and return every output by name, rows first; unknown feeds are ignored."""
