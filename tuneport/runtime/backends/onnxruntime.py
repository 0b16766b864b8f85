"""The ONNX Runtime backend for the CPU."""

from pathlib import Path

import numpy as np

from tuneport.host import usable_cores
from tuneport.runtime.backends.session import Signature, open_session
from tuneport.runtime.batch import Batch, Output


class OnnxRuntimeBackend:
    """A session that all streams share, each with its share of the threads."""

    length_multiple = 1

    def __init__(self, path: Path, *, threads: int | None = None, streams: int = 1) -> None:
        """Open a session; raises EngineError if the graph cannot be loaded.

        `threads` is the number of CPU threads of all streams together, by default the container's quota.
        """
        self.streams = streams
        self._session = open_session(path, threads=max(1, (threads or usable_cores()) // streams))
        self._signature = Signature(self._session)

    def run(self, batch: Batch) -> dict[str, Output]:
        """Run the graph on a batch and return every output by name, rows first; unknown feeds are ignored."""
        feeds = {name: np.asarray(batch.feeds[name], dtype) for name, dtype in self._signature.input_dtypes.items()}
        names = self._signature.output_names
        return dict(zip(names, self._session.run(names, feeds), strict=True))
