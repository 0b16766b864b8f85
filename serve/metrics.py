"""Metrics for Prometheus. One instance a process; with several workers prometheus_client adds them up.

What an engine does is also labelled with its worker and device; the GPUs themselves are in `gpu_metrics.py`, and the
service's processes in `process_metrics.py`.
"""

from typing import Any

from .batcher import BatchReport
from .devices import Placement
from .drift import is_truncated, observations
from .metric_families import MODEL_LABELS, TRAFFIC_SHARE, Families

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
CONFIDENCES = tuple(step / 10 for step in range(1, 11))
DIFFERENCES = (0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
REJECTED = ("429", "RESOURCE_EXHAUSTED")
CANCELLED = ("499", "CANCELLED")


class Metrics:
    """Counters and histograms of both protocols and the batcher, labelled with the model's name, version, variant."""

    def __init__(self, model: dict[str, str], families: Families, placement: Placement | None = None) -> None:
        """Create the metrics of a model, as `Predictor.describe` names it, whose engine runs at `placement`."""
        placement = placement or Placement()
        prometheus = families.prometheus
        names = MODEL_LABELS
        self._families = families
        self._has_engine = placement.has_engine
        self._model = tuple(model.values())
        families.add_model(self._model, placement.gpus)
        engine = {"worker": str(placement.worker), "device": placement.device}

        def counter(name: str, text: str, *labels: str) -> Any:
            metric = families.get(prometheus.Counter, name, text, [*names, *labels])
            return metric if labels else metric.labels(*self._model)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Any:
            metric = families.get(prometheus.Histogram, name, text, [*names, *labels], buckets=buckets)
            return metric if labels else metric.labels(*self._model)

        def of_worker(kind: Any, name: str, text: str, **options: Any) -> Any:
            metric = families.get(kind, name, text, [*names, *engine], **options)
            return metric.labels(*self._model, *engine.values())

        def of_engine(kind: Any, name: str, text: str, **options: Any) -> Any:
            # Where the engine is in another process, that process reports it.
            return of_worker(kind, name, text, **options) if placement.has_engine else None

        self._requests = counter("requests_total", "Requests.", "protocol", "operation", "status")
        self._seconds = histogram("request_seconds", "Duration of requests.", SECONDS, "protocol", "operation")
        self._rejected = counter("rejected_requests_total", "Requests refused because of load.", "protocol")
        self._cancelled = counter("cancelled_total", "Requests whose client went away.", "protocol")
        self._inputs = counter("inputs_total", "Inputs answered.")
        self._truncated = counter("truncated_inputs_total", "Inputs that were truncated.")
        self._cache_hits = counter("cache_hits_total", "Inputs answered from the cache of responses.")
        self._cache_misses = counter("cache_misses_total", "Inputs that were not in the cache of responses.")
        self._shadowed = counter("shadow_inputs_total", "Inputs sent to a shadow, by how it answered.", "result")
        self._differences = histogram("shadow_score_difference", "Absolute differences of scores.", DIFFERENCES)
        self._labels = counter("predictions_total", "Predictions by label.", "label")
        self._confidence = histogram("confidence", "Scores of predicted labels.", CONFIDENCES)
        values = families.get(prometheus.Summary, "predicted_value", "Scores of a regression.", names)
        self._values = values.labels(*self._model)
        self._queue = histogram("queue_seconds", "Time that each row waited in the queue.", SECONDS)
        self._engine = histogram("batch_seconds", "Time that each batch took in the engine.", SECONDS)
        self._batch = histogram("batch_padded_tokens", "Padded tokens of each batch.", TOKENS)
        self._batches = of_engine(prometheus.Counter, "batches_total", "Batches computed.")
        self._tokens = of_engine(prometheus.Counter, "tokens_total", "Tokens computed, without padding.")
        self._padding = of_engine(prometheus.Counter, "padding_tokens_total", "Padding tokens computed.")
        self._halved = of_engine(prometheus.Counter, "halved_batches_total", "Batches that did not fit into memory.")
        self._lost = of_engine(prometheus.Counter, "lost_devices_total", "Devices that failed.")
        # A worker that replaces another has its number, so that the most recent value is the living one's.
        self._waiting = of_engine(
            prometheus.Gauge, "queue_inputs", "Inputs that wait for the engine.", multiprocess_mode="mostrecent"
        )
        self._streams = of_engine(
            prometheus.Gauge, "engine_streams", "Batches that an engine runs at a time.", multiprocess_mode="mostrecent"
        )
        self._in_flight = of_worker(
            prometheus.Gauge,
            "requests_in_flight",
            "Requests for the engine that are not answered.",
            multiprocess_mode="mostrecent",
        )
        self._traffic_share = of_worker(
            prometheus.Gauge,
            TRAFFIC_SHARE,
            "Share of the requests without a version that this version answers.",
            multiprocess_mode="livemostrecent",
        )
        self._cache_bytes = of_worker(
            prometheus.Gauge, "cache_bytes", "Size of the cache of responses.", multiprocess_mode="mostrecent"
        )
        self._children: dict[tuple[str, ...], Any] = {}

    def request(self, protocol: str, operation: str, status: str, seconds: float) -> None:
        """Count one request; `status` is HTTP's number or gRPC's name."""
        self._child(self._requests, "requests", protocol, operation, status).inc()
        self._child(self._seconds, "seconds", protocol, operation).observe(seconds)
        if status in REJECTED:
            self._child(self._rejected, "rejected", protocol).inc()
        elif status in CANCELLED:
            self._child(self._cancelled, "cancelled", protocol).inc()

    def batch(self, report: BatchReport) -> None:
        """Count a batch."""
        self._batches.inc()
        for seconds in report.waited_s:
            self._queue.observe(seconds)
        self._engine.observe(report.seconds)
        self._batch.observe(report.padded_tokens)
        self._tokens.inc(report.tokens)
        self._padding.inc(report.padded_tokens - report.tokens)

    def halved(self) -> None:
        """Count a batch that was halved because it did not fit into the device's memory; in any thread."""
        self._halved.inc()

    def device_lost(self) -> None:
        """Count a device that failed."""
        self._lost.inc()

    def waiting(self, inputs: int) -> None:
        """Set the number of inputs that wait, in the process that has the engine."""
        if self._has_engine:
            self._waiting.set(inputs)

    def streams(self, count: int) -> None:
        """Set the number of batches that the engine runs at a time, in the process that has it."""
        if self._has_engine:
            self._streams.set(count)

    def in_flight(self, requests: int) -> None:
        """Set the number of requests that wait for the engine or run in it."""
        self._in_flight.set(requests)

    def traffic_share(self, share: float) -> None:
        """Set the share of the requests which name no version that this version answers; 0 for a shadow."""
        self._traffic_share.set(share)

    def cached(self, hits: int, misses: int) -> None:
        """Count inputs that were found in the cache of responses, and others."""
        self._cache_hits.inc(hits)
        self._cache_misses.inc(misses)

    def cache_size(self, size: int) -> None:
        """Set the bytes in the cache of responses."""
        self._cache_bytes.set(size)

    def predictions(self, predictions: list[Any], *, has_several_labels: bool = False) -> None:
        """Count predictions, whose change over time shows drift, and truncated inputs."""
        self._inputs.inc(len(predictions))
        if truncated := sum(map(is_truncated, predictions)):
            self._truncated.inc(truncated)
        labels: dict[str, int] = {}
        for prediction in predictions:
            for seen in observations(prediction, has_several_labels=has_several_labels):
                if seen.label is not None:
                    labels[seen.label] = labels.get(seen.label, 0) + 1
                if seen.confidence is not None:
                    self._confidence.observe(seen.confidence)
                if seen.value is not None:
                    self._values.observe(seen.value)
        for label, count in labels.items():
            self._child(self._labels, "labels", label).inc(count)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the model's metrics."""
        return dict(zip(MODEL_LABELS, self._model, strict=True))

    def remove(self) -> None:
        """Show the model's gauges no more: it was unloaded."""
        self._families.remove_model(self._model)

    def shadowed(self, result: str, inputs: int, difference: float | None = None) -> None:
        """Count inputs of a shadow: `agree`, `disagree`, `failed` or `dropped`."""
        self._child(self._shadowed, "shadowed", result).inc(inputs)
        if difference is not None:
            self._differences.observe(difference)

    def page(self) -> tuple[bytes, str]:
        """Return the page that Prometheus reads, of all models, and its content type."""
        return self._families.page()

    def _child(self, family: Any, name: str, *labels: str) -> Any:
        """Look up a labelled metric; the library's own lookup takes a lock and builds a tuple of strings each time."""
        key = (name, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = family.labels(*self._model, *labels)
        return child
