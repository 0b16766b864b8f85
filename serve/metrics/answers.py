"""Metrics of what a model answers, whose change over time shows drift, and of the cache of its answers."""

from collections import Counter
from typing import Any

from ..drift import is_truncated, observations
from .labelled import LabelledFamilies

CONFIDENCES = tuple(step / 10 for step in range(1, 11))


class AnswerMetrics:
    """Counts of a model's inputs and predictions."""

    def __init__(self, families: LabelledFamilies) -> None:
        """Create the metrics."""
        self._inputs = families.counter("inputs_total", "Inputs answered.")
        self._truncated = families.counter("truncated_inputs_total", "Inputs that were truncated.")
        self._labels = families.counters("predictions_total", "Predictions by label.", "label")
        self._confidence = families.histogram("confidence", "Scores of predicted labels.", CONFIDENCES)
        self._values = families.summary("predicted_value", "Scores of a regression.")
        self._cache_hits = families.counter("cache_hits_total", "Inputs answered from the cache of responses.")
        self._cache_misses = families.counter("cache_misses_total", "Inputs that were not in the cache of responses.")
        self._cache_bytes = families.gauge_of_worker("cache_bytes", "Size of the cache of responses.")

    def predictions(self, predictions: list[Any], *, has_several_labels: bool = False) -> None:
        """Count predictions and truncated inputs."""
        self._inputs.inc(len(predictions))
        if truncated := sum(map(is_truncated, predictions)):
            self._truncated.inc(truncated)
        labels: Counter[str] = Counter()
        for prediction in predictions:
            for seen in observations(prediction, has_several_labels=has_several_labels):
                if seen.label is not None:
                    labels[seen.label] += 1
                if seen.confidence is not None:
                    self._confidence.observe(seen.confidence)
                if seen.value is not None:
                    self._values.observe(seen.value)
        for label, count in labels.items():
            self._labels.of(label).inc(count)

    def cached(self, hits: int, misses: int) -> None:
        """Count inputs that were found in the cache of responses, and others."""
        self._cache_hits.inc(hits)
        self._cache_misses.inc(misses)

    def cache_size(self, size: int) -> None:
        """Set the bytes in the cache of responses."""
        self._cache_bytes.set(size)
