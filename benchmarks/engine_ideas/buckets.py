"""A runner with a session of its own for each of a few shapes, so that ONNX Runtime knows every size beforehand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tuneport.host import usable_cores
from tuneport.runtime.batch import EncodedInput, RowOutputs, padded_batch
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Processing

LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512)
ROWS = (1, 2, 4, 8, 16, 32)


class BucketRunner(ModelRunner):
    """Pads each batch to the next bucket in both directions; sessions are opened when a bucket is first needed."""

    supports_streams = True
    single_row_batches = False
    streams = 1

    def __init__(self, path: Path, task: RuntimeTask, processing: Processing) -> None:
        """Open no session yet."""
        self.task = task
        self.limits = BatchLimits(longest=processing.max_length)
        self.on_halved = lambda: None
        self._path, self._processing = path, processing
        self._sessions: dict[tuple[int, int], ort.InferenceSession] = {}

    def run_batch(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Run rows, in parts if there are more than the largest bucket has."""
        if len(rows) > ROWS[-1]:
            return [*self.run_batch(rows[: ROWS[-1]]), *self.run_batch(rows[ROWS[-1] :])]
        length = min(_bucket(max(map(len, rows)), LENGTHS), self._processing.max_length)
        filled = [*rows, *[rows[0]] * (_bucket(len(rows), ROWS) - len(rows))]
        batch = padded_batch(filled, self._processing, length)
        session = self._session(len(filled), length)
        feeds = {each.name: np.asarray(batch.feeds[each.name], np.int64) for each in session.get_inputs()}
        names = [each.name for each in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        return batch.split(outputs, per_token=self.task.per_token)[: len(rows)]

    def _session(self, rows: int, length: int) -> ort.InferenceSession:
        if (rows, length) not in self._sessions:
            options = ort.SessionOptions()
            options.intra_op_num_threads = usable_cores()
            options.log_severity_level = 3
            options.add_free_dimension_override_by_name("batch_size", rows)
            options.add_free_dimension_override_by_name("sequence_length", length)
            self._sessions[rows, length] = ort.InferenceSession(
                str(self._path), options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[rows, length]


def _bucket(value: int, sizes: Sequence[int]) -> int:
    return next((size for size in sizes if size >= value), value)
