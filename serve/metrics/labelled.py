"""The metrics of one model, in the families that all models of a process share."""

from collections.abc import Mapping
from typing import Any

from ..devices import Placement
from .families import MODEL_LABELS, Families

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
"""Upper bounds of the buckets of durations."""


class Children:
    """The metrics of one model in a family that has further labels.

    The library's own lookup takes a lock and builds a tuple of strings each time.
    """

    def __init__(self, family: Any, model: tuple[str, ...]) -> None:
        """Take a family whose first labels are those of the model."""
        self._family = family
        self._model = model
        self._children: dict[tuple[str, ...], Any] = {}

    def of(self, *labels: str) -> Any:
        """Return the metric with the values of the further labels."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._family.labels(*self._model, *labels)
        return child


class LabelledFamilies:
    """Creates metrics that are labelled with a model, and where they say so with the worker and its device."""

    def __init__(self, model: Mapping[str, str], families: Families, placement: Placement) -> None:
        """Take the name, version and variant of a model, as `Predictor.describe` gives them."""
        self.model = tuple(model.values())
        self._families = families
        self._kinds = families.prometheus
        self._worker = {"worker": str(placement.worker), "device": placement.device}

    def counter(self, name: str, text: str) -> Any:
        """Return a counter."""
        return self._family(self._kinds.Counter, name, text).labels(*self.model)

    def counters(self, name: str, text: str, *labels: str) -> Children:
        """Return counters with further labels."""
        return Children(self._family(self._kinds.Counter, name, text, labels), self.model)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Any:
        """Return a histogram."""
        return self._family(self._kinds.Histogram, name, text, buckets=buckets).labels(*self.model)

    def histograms(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Children:
        """Return histograms with further labels."""
        return Children(self._family(self._kinds.Histogram, name, text, labels, buckets=buckets), self.model)

    def summary(self, name: str, text: str) -> Any:
        """Return the count and the sum of values."""
        return self._family(self._kinds.Summary, name, text).labels(*self.model)

    def counter_of_worker(self, name: str, text: str) -> Any:
        """Return a counter of this process."""
        return self._of_worker(self._kinds.Counter, name, text)

    def gauge_of_worker(self, name: str, text: str, *, ends_with_process: bool = False) -> Any:
        """Return a gauge of this process; its last value stays after the process has ended unless `ends_with_process`.

        A worker that replaces another has its number, so that the most recent value is the living one's.
        """
        mode = "livemostrecent" if ends_with_process else "mostrecent"
        return self._of_worker(self._kinds.Gauge, name, text, multiprocess_mode=mode)

    def _of_worker(self, kind: Any, name: str, text: str, **options: Any) -> Any:
        family = self._family(kind, name, text, tuple(self._worker), **options)
        return family.labels(*self.model, *self._worker.values())

    def _family(self, kind: Any, name: str, text: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
        return self._families.get(kind, name, text, (*MODEL_LABELS, *labels), **options)
