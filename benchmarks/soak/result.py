"""What a soak test observed."""

from tuneport.schema.base import Frozen


class Reading(Frozen):
    """The memory of the service at one moment."""

    seconds: float
    """Since the first request."""
    requests: int
    """Answered so far."""
    worker_mib: float
    """Resident memory of the largest process."""


class SoakResult(Frozen):
    """Counts of requests, each of which was sent until it was answered or its time was over."""

    requests: int
    """Answered with 200 and the right predictions."""
    lost: int
    """Without an answer within the time limit, or answered with a status that no retry can change."""
    wrong: int
    """Answered with 200 and other predictions than the artifact gives alone, or by an unknown version."""
    retried: dict[str, int]
    """Reason → attempts that were repeated: `connection`, or the status 429 or 503."""
    versions: dict[str, int]
    """Version of the artifact → requests that it answered."""
    faults: dict[str, int]
    """Fault → how often it was caused."""
    seconds: float
    memory: tuple[Reading, ...]
    growth: float | None
    """Last reading relative to the first, minus 1. None with faults, which replace the processes."""

    @property
    def problems(self) -> list[str]:
        """Say what must not happen, a phrase each."""
        counts = {"lost": self.lost, "wrong": self.wrong}
        return [f"{count} requests {name}" for name, count in counts.items() if count]
