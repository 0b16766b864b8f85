"""Runners turn encoded inputs into outputs. The export's gate, the benchmarks and serving use the same ones."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tuneport.errors import DeviceLost, DeviceOutOfMemory
from tuneport.runtime.backends.base import Backend
from tuneport.runtime.batch import Batch, EncodedInput, RowOutputs, RunBatch, packed_batch, padded_batch
from tuneport.runtime.device_errors import classify, reason_of
from tuneport.runtime.scheduler import BatchLimits, pack_batches
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Execution, Processing

Row = TypeVar("Row", bound=EncodedInput)


class ModelRunner(ABC):
    """Runs rows through a model."""

    task: RuntimeTask
    limits: BatchLimits
    """Limits of a batch, as measured to be best unless a deployment sets others."""
    single_row_batches: bool
    """Whether each row runs in a batch of its own; see `Execution.single_row_batches`."""
    supports_streams: bool
    """Whether the CPU cores may be divided among several streams."""
    streams: int
    """Number of batches that may run at the same time."""
    on_halved: Callable[[], object]
    """Called, in any thread, for each batch that was halved because it did not fit into the device's memory."""

    @abstractmethod
    def run_batch(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Run rows in one batch; returns the outputs of each row, in order."""

    def run(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Run any number of rows in batches of similar length; returns the outputs of each row, in order."""
        results: list[RowOutputs] = [{}] * len(rows)
        for batch in pack_batches([len(row) for row in rows], self.limits):
            for i, result in zip(batch, self.run_batch([rows[i] for i in batch]), strict=True):
                results[i] = result
        return results


class EncoderRunner(ModelRunner):
    """Runs a graph once a batch."""

    supports_streams = True

    def __init__(self, task: RuntimeTask, backend: Backend, execution: Execution, processing: Processing) -> None:
        """Run a task's rows on a backend."""
        self.task = task
        self.backend = backend
        self.single_row_batches = execution.single_row_batches
        self.streams = backend.streams
        self._max_rows = 1 if execution.single_row_batches else execution.max_batch_rows or sys.maxsize
        self.on_halved = lambda: None
        limits = BatchLimits.of(execution)
        self.limits = replace(limits, length_multiple=backend.length_multiple, longest=processing.max_length)
        self._processing = processing

    def run_batch(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Run rows in one batch, in the layout of the graph; returns the outputs of each row, without padding.

        A batch of more rows than the engine takes, or that does not fit into the device's memory, runs in parts. Raises
        DeviceOutOfMemory, DeviceLost.
        """
        parts = (rows[at : at + self._max_rows] for at in range(0, len(rows), self._max_rows))
        return [result for part in parts for result in run_halved(self._run_rows, part, self.on_halved)]

    def _run_rows(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        batch = self._lay_out(rows)
        return batch.split(self.backend.run(batch), per_token=self.task.per_token)

    def _lay_out(self, rows: Sequence[EncodedInput]) -> Batch:
        if self.limits.layout == "packed":
            return packed_batch(rows)
        length = self.limits.padded(max(map(len, rows)))
        return padded_batch(rows, self._processing, length)


def run_halved(
    run: Callable[[Sequence[Row]], list[RowOutputs]],
    rows: Sequence[Row],
    on_halved: Callable[[], object],
    *,
    repeatable: bool = True,
) -> list[RowOutputs]:
    """Run a batch; as long as it does not fit into the device's memory, halve it and run the halves.

    Calls `on_halved` for each batch that was halved. Raises DeviceOutOfMemory for a single row that does not fit, and
    for a batch that is not `repeatable`; DeviceLost if the device failed; the engine's other exceptions as they are.
    """
    try:
        return run(rows)
    except Exception as error:
        failure = classify(error)
        if failure is None:
            raise
        if failure == "lost":
            raise DeviceLost(reason_of(error)) from error
        if len(rows) == 1 or not repeatable:
            raise DeviceOutOfMemory(max(map(len, rows))) from error
    # Outside of the handler: the exception holds the arrays of the batch that failed.
    on_halved()
    middle = len(rows) // 2
    return [part for half in (rows[:middle], rows[middle:]) for part in run_halved(run, half, on_halved)]


def run_isolated(run: RunBatch, rows: list[EncodedInput]) -> tuple[list[RowOutputs | Exception], float]:
    """Run a batch; if it fails, run its rows one by one, so that only the bad row fails.

    Nothing runs again after the device was lost. Returns a result for each row, and the seconds of the first attempt.
    """
    began = time.perf_counter()
    try:
        results = run(rows)
        if len(results) != len(rows):
            raise ValueError(f"{len(results)} results for {len(rows)} row(s)")
        return list(results), time.perf_counter() - began
    except DeviceLost as error:
        return [error] * len(rows), time.perf_counter() - began
    except Exception as error:
        seconds = time.perf_counter() - began
        return [error] if len(rows) == 1 else [run_isolated(run, [row])[0][0] for row in rows], seconds
