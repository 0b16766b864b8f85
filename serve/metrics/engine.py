"""Metrics of what an engine does, in the process that it runs in."""

import logging

from .. import logs
from ..batcher import BatchReport
from ..inference import Inference
from ..observing import Observing
from .labelled import SECONDS, LabelledFamilies

TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class EngineMetrics:
    """Counts and times of an engine's batches, and the rows that wait for it."""

    def __init__(self, families: LabelledFamilies) -> None:
        """Create the metrics."""
        self._queue = families.histogram("queue_seconds", "Time that each row waited in the queue.", SECONDS)
        self._seconds = families.histogram("batch_seconds", "Time that each batch took in the engine.", SECONDS)
        self._size = families.histogram("batch_padded_tokens", "Padded tokens of each batch.", TOKENS)
        self._batches = families.counter_of_worker("batches_total", "Batches computed.")
        self._tokens = families.counter_of_worker("tokens_total", "Tokens computed, without padding.")
        self._padding = families.counter_of_worker("padding_tokens_total", "Padding tokens computed.")
        self._halved = families.counter_of_worker("halved_batches_total", "Batches that did not fit into memory.")
        self._lost = families.counter_of_worker("lost_devices_total", "Devices that failed.")
        self._waiting = families.gauge_of_worker("queue_inputs", "Inputs that wait for the engine.")
        self._streams = families.gauge_of_worker("engine_streams", "Batches that an engine runs at a time.")

    def record(self, inference: Inference) -> None:
        """Count every batch of an engine from now on, and log the first one that did not fit into its memory."""
        halved: list[None] = []

        def record_batch(report: BatchReport) -> None:
            with Observing("batches"):
                self.batch(report)
                self.waiting(inference.batcher.waiting)

        def record_halved() -> None:
            with Observing("halved batches"):
                self.halved()
            if not halved:
                halved.append(None)
                remedy = "lower TUNEPORT_MAX_BATCH_TOKENS if it happens often; see tuneport_halved_batches_total"
                logs.log("batch halved for lack of memory", logging.WARNING, remedy=remedy)

        self._streams.set(inference.predictor.runner.streams)
        inference.on_batch = record_batch
        inference.predictor.runner.on_halved = record_halved

    def batch(self, report: BatchReport) -> None:
        """Count a batch."""
        self._batches.inc()
        for seconds in report.waited_s:
            self._queue.observe(seconds)
        self._seconds.observe(report.seconds)
        self._size.observe(report.padded_tokens)
        self._tokens.inc(report.tokens)
        self._padding.inc(report.padded_tokens - report.tokens)

    def halved(self) -> None:
        """Count a batch that was halved because it did not fit into the device's memory; in any thread."""
        self._halved.inc()

    def device_lost(self) -> None:
        """Count a device that failed."""
        self._lost.inc()

    def waiting(self, inputs: int) -> None:
        """Set the number of inputs that wait."""
        self._waiting.set(inputs)
