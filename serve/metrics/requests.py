"""Metrics of requests, of both protocols."""

from .labelled import SECONDS, LabelledFamilies

REJECTED = ("429", "RESOURCE_EXHAUSTED")
"""Statuses of requests that were refused because of load."""
CANCELLED = {"http": "499", "grpc": "CANCELLED"}
"""Protocol → the status of a request whose client went away."""


class RequestMetrics:
    """Counts and durations of a model's requests, and how many are not answered yet."""

    def __init__(self, families: LabelledFamilies) -> None:
        """Create the metrics."""
        self._requests = families.counters("requests_total", "Requests.", "protocol", "operation", "status")
        self._seconds = families.histograms(
            "request_seconds", "Duration of requests.", SECONDS, "protocol", "operation"
        )
        self._rejected = families.counters("rejected_requests_total", "Requests refused because of load.", "protocol")
        self._cancelled = families.counters("cancelled_total", "Requests whose client went away.", "protocol")
        self._in_flight = families.gauge_of_worker(
            "requests_in_flight", "Requests for the engine that are not answered."
        )

    def count(self, protocol: str, operation: str, status: str, seconds: float) -> None:
        """Count one request; `status` is HTTP's number or gRPC's name."""
        self._requests.of(protocol, operation, status).inc()
        self._seconds.of(protocol, operation).observe(seconds)
        if status in REJECTED:
            self._rejected.of(protocol).inc()
        elif status == CANCELLED[protocol]:
            self._cancelled.of(protocol).inc()

    def in_flight(self, requests: int) -> None:
        """Set the number of requests that wait for the engine or run in it."""
        self._in_flight.set(requests)
