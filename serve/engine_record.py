"""Count what an engine does, in the process that it runs in."""

import logging

from . import logs
from .batcher import BatchReport
from .inference import Inference
from .metrics import Metrics


def record_engine(inference: Inference, metrics: Metrics) -> None:
    """Count every batch from now on, and log the first one that did not fit into the device's memory."""
    halved: list[None] = []

    def record_batch(report: BatchReport) -> None:
        metrics.batch(report)
        metrics.waiting(inference.batcher.waiting)

    def record_halved() -> None:
        metrics.halved()
        if not halved:
            halved.append(None)
            remedy = "lower TUNEPORT_MAX_BATCH_TOKENS if it happens often; see tuneport_halved_batches_total"
            logs.log("batch halved for lack of memory", logging.WARNING, remedy=remedy)

    metrics.streams(inference.predictor.runner.streams)
    inference.on_batch = record_batch
    inference.predictor.runner.on_halved = record_halved
