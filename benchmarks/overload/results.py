"""The results of the overload benchmark."""

from tuneport.host import Host
from tuneport.schema.base import Frozen

from ..report import markdown_table


class OverloadLoad(Frozen):
    """What the service did under one load."""

    name: str
    max_queue_ms: float | None
    """TUNEPORT_MAX_QUEUE_MS; None if it was not set."""
    connections: int | None
    """Of a closed loop; None for an open one."""
    goodput_per_s: float
    """Responses with status 200."""
    latency_ms_p50: float
    """Of those responses, as is the next."""
    latency_ms_p99: float
    refused_per_s: float
    """Responses with status 429."""
    statuses: dict[int, int]
    client_cores: float
    """Processors that the load generator took, of those of the host."""


class OverloadReport(Frozen):
    """report.json."""

    name: str
    version: str
    variant: str
    loads: tuple[OverloadLoad, ...]
    """Full load first."""
    refusal_cpu_us: float
    """Processor time of one refusal."""
    host: Host
    git_commit: str | None
    created: str
    """UTC, ISO 8601."""

    def goodput_ratio(self, load: OverloadLoad) -> float:
        """Return a load's goodput relative to the best of all loads."""
        return load.goodput_per_s / max(each.goodput_per_s for each in self.loads)

    def share_of_cores_left(self, load: OverloadLoad) -> float:
        """Return the same of the goodput for each processor that the load generator leaves to the service."""
        rates = [each.goodput_per_s / (self.host.cores - each.client_cores) for each in self.loads]
        return load.goodput_per_s / (self.host.cores - load.client_cores) / max(rates)

    def latency_ratio(self, load: OverloadLoad) -> float:
        """Return the p99 of a load's accepted requests relative to that at full load."""
        return load.latency_ms_p99 / self.loads[0].latency_ms_p99

    def markdown(self) -> str:
        """Return report.md."""
        header = ["load", "queue limit", "connections", "goodput/s", "of the best", "of cores left"]
        header += ["p50 ms", "p99 ms", "× full load", "refused/s", "load's cores"]
        rows = [
            [
                load.name,
                "the timeout" if load.max_queue_ms is None else f"{load.max_queue_ms:.0f} ms",
                "open loop" if load.connections is None else str(load.connections),
                f"{load.goodput_per_s:.1f}",
                f"{self.goodput_ratio(load):.2f}",
                f"{self.share_of_cores_left(load):.2f}",
                f"{load.latency_ms_p50:.0f}",
                f"{load.latency_ms_p99:.0f}",
                f"{self.latency_ratio(load):.2f}",
                f"{load.refused_per_s:.1f}",
                f"{load.client_cores:.2f}",
            ]
            for load in self.loads
        ]
        host = self.host
        return (
            "\n\n".join(
                [
                    f"# Overload: {self.name} {self.version}, {self.variant}",
                    markdown_table(header, rows),
                    f"The golden inputs, one a request; {host.cpu}, {host.cores} cores shared with the load generator. "
                    "*Of cores left* is the goodput for each core that the load generator does not take, of the best. "
                    f"Latencies are those of accepted requests. A refusal took {self.refusal_cpu_us:.0f} µs of the "
                    "processor, from the socket back to it, without BentoML's layers.",
                ]
            )
            + "\n"
        )
