"""Metrics of how a model's versions share its requests."""

from .families import TRAFFIC_SHARE
from .labelled import LabelledFamilies

DIFFERENCES = (0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


class TrafficMetrics:
    """The share of the requests that a version answers, and what it answers as a shadow."""

    def __init__(self, families: LabelledFamilies) -> None:
        """Create the metrics."""
        self._share = families.gauge_of_worker(
            TRAFFIC_SHARE,
            "Share of the requests without a version that this version answers.",
            ends_with_process=True,
        )
        self._shadowed = families.counters(
            "shadow_inputs_total", "Inputs sent to a shadow, by how it answered.", "result"
        )
        self._differences = families.histogram(
            "shadow_score_difference", "Absolute differences of scores.", DIFFERENCES
        )

    def share(self, share: float) -> None:
        """Set the share of the requests which name no version that this version answers; 0 for a shadow."""
        self._share.set(share)

    def shadowed(self, result: str, inputs: int, difference: float | None = None) -> None:
        """Count inputs of a shadow: `agree`, `disagree`, `failed` or `dropped`."""
        self._shadowed.of(result).inc(inputs)
        if difference is not None:
            self._differences.observe(difference)
