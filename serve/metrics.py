"""Figures for Prometheus. One instance a process; with several workers prometheus_client adds them up."""

import os
from collections.abc import Iterator
from typing import Any

from export.files import TuneportError
from serve.batcher import BatchReport
from serve.settings import METRICS_FOLDER

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
CONFIDENCES = tuple(step / 10 for step in range(1, 11))


class Metrics:
    """What both doors and the batcher report; every figure carries the model's name, version and variant."""

    def __init__(self, model: dict[str, str], *, workers: int = 1) -> None:
        """Make the figures; with several workers they live in files of a folder that the supervisor made."""
        # prometheus_client reads the variable when it is imported.
        if workers == 1:
            os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        elif folder := os.environ.get(METRICS_FOLDER):
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        import prometheus_client as prometheus
        from prometheus_client import multiprocess

        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._multiprocess = multiprocess
        self._prometheus = prometheus
        self._several = workers > 1
        self._registry = prometheus.CollectorRegistry()
        names = [f"model_{key}" for key in model]
        self._model = tuple(model.values())

        def counter(name: str, text: str, *labels: str) -> Any:
            made = prometheus.Counter(f"tuneport_{name}", text, [*names, *labels], registry=self._registry)
            return made if labels else made.labels(*self._model)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Any:
            made = prometheus.Histogram(
                f"tuneport_{name}", text, [*names, *labels], registry=self._registry, buckets=buckets
            )
            return made if labels else made.labels(*self._model)

        self._requests = counter("requests_total", "Requests.", "door", "operation", "status")
        self._seconds = histogram("request_seconds", "From first byte to answer.", SECONDS, "door", "operation")
        self._shed = counter("shed_total", "Requests refused for load.", "door")
        self._left = counter("cancelled_total", "Requests whose client went away.", "door")
        self._inputs = counter("inputs_total", "Inputs answered.")
        self._truncated = counter("truncated_inputs_total", "Inputs that lost their end.")
        self._labels = counter("predictions_total", "Predictions by label.", "label")
        self._confidence = histogram("confidence", "Scores of predicted labels.", CONFIDENCES)
        self._queue = histogram("queue_seconds", "What each row waited for the engine.", SECONDS)
        self._engine = histogram("batch_seconds", "What each batch took in the engine.", SECONDS)
        self._batch = histogram("batch_padded_tokens", "Padded tokens of each batch.", TOKENS)
        self._tokens = counter("tokens_total", "Tokens computed, padding not counted.")
        self._padding = counter("padding_tokens_total", "Padding computed.")
        self._children: dict[tuple[str, ...], Any] = {}

    def request(self, door: str, operation: str, status: str, seconds: float) -> None:
        """Count one request; `status` is HTTP's number or gRPC's name."""
        self._child(self._requests, "requests", door, operation, status).inc()
        self._child(self._seconds, "seconds", door, operation).observe(seconds)
        if status in ("429", "RESOURCE_EXHAUSTED"):
            self._child(self._shed, "shed", door).inc()
        elif status in ("499", "CANCELLED"):
            self._child(self._left, "left", door).inc()

    def batch(self, report: BatchReport) -> None:
        """Take in what a batch was."""
        for seconds in report.waited_s:
            self._queue.observe(seconds)
        self._engine.observe(report.seconds)
        self._batch.observe(report.padded_tokens)
        self._tokens.inc(report.tokens)
        self._padding.inc(report.padded_tokens - report.tokens)

    def predictions(self, predictions: list[Any]) -> None:
        """Take in answers: labels and scores for drift, and what was cut."""
        self._inputs.inc(len(predictions))
        for found in map(_best, predictions):
            for label, score, truncated in found:
                if label is not None:
                    self._child(self._labels, "labels", label).inc()
                    self._confidence.observe(score)
                if truncated:
                    self._truncated.inc()

    def page(self) -> tuple[bytes, str]:
        """Return the page and its content type."""
        return self._prometheus.generate_latest(self._all()), self._prometheus.CONTENT_TYPE_LATEST

    def listen(self, port: int, host: str) -> Any:
        """Serve the page on a port of its own; returns a server with `shutdown()`."""
        try:
            return self._prometheus.start_http_server(port, host, self._all())[0]
        except OSError as error:
            raise TuneportError(
                f"the metrics cannot listen on port {port} ({error})", "free it, or choose another"
            ) from error

    def _all(self) -> Any:
        """Return a registry that adds up the workers, or this one's."""
        if not self._several:
            return self._registry
        registry = self._prometheus.CollectorRegistry()
        self._multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    def _child(self, family: Any, name: str, *labels: str) -> Any:
        """Look up a labelled figure; the library's own way takes a lock and builds a tuple of strings each time."""
        key = (name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = family.labels(*self._model, *labels)
        return child


def _best(prediction: Any) -> Iterator[tuple[str | None, float, bool]]:
    """Yield label, score and whether the input was cut: the best label of a list, each entity of a text."""
    found = prediction if isinstance(prediction, list) else [prediction]
    for each in found if found and "entity" in found[0] else found[:1]:
        label = each.get("label", each.get("entity"))
        yield label, each.get("score", 0.0), bool(each.get("truncated"))
