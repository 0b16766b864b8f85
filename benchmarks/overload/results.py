"""The results of the overload benchmark."""

from tuneport.host import Host
from tuneport.schema.artifact import Interval
from tuneport.schema.base import Frozen
from tuneport.stages.export.intervals import Samples

from ..report import markdown_table


class OverloadLoad(Frozen):
    """What the service did under one load."""

    name: str
    max_queue_ms: float | None
    """TUNEPORT_MAX_QUEUE_MS; None if it was not set."""
    connections: int | None
    """Of a closed loop; None for an open one."""
    goodput_per_s: float
    """Responses with status 200, in all rounds together."""
    goodput_by_round: tuple[float, ...]
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

    def goodput_ratio(self, load: OverloadLoad) -> tuple[float, Interval]:
        """Return the goodput of a load as a share of full load's in the same round: median and interval."""
        pairs = zip(load.goodput_by_round, self.loads[0].goodput_by_round, strict=True)
        shares = Samples.of([ours / theirs for ours, theirs in pairs])
        return shares.median, shares.interval

    def share_of_cores_left(self, load: OverloadLoad) -> float:
        """Return that share with each goodput divided by the processors that the load generator left to the service."""
        left, left_at_full_load = (self.host.cores - each.client_cores for each in (load, self.loads[0]))
        return self.goodput_ratio(load)[0] * left_at_full_load / left

    def latency_ratio(self, load: OverloadLoad) -> float:
        """Return the p99 of a load's accepted requests relative to that at full load."""
        return load.latency_ms_p99 / self.loads[0].latency_ms_p99

    def markdown(self) -> str:
        """Return report.md."""
        header = ["load", "queue limit", "connections", "goodput/s", "of full load", "of cores left"]
        header += ["p50 ms", "p99 ms", "× full load", "refused/s", "load's cores"]
        host, rounds = self.host, len(self.loads[0].goodput_by_round)
        return (
            "\n\n".join(
                [
                    f"# Overload: {self.name} {self.version}, {self.variant}",
                    markdown_table(header, [self._row(load) for load in self.loads]),
                    f"The golden inputs, one a request; {host.cpu}, {host.cores} cores shared with the load generator; "
                    f"{rounds} rounds. *Of full load* is the median of the rounds, each beside full load in the same "
                    "round, with its 95 % interval; *of cores left* is the same for each core that the load generator "
                    f"does not take. Latencies are those of accepted requests. A refusal took "
                    f"{self.refusal_cpu_us:.0f} µs of the processor, from the socket back to it, without BentoML's "
                    "layers.",
                ]
            )
            + "\n"
        )

    def _row(self, load: OverloadLoad) -> list[str]:
        share, (low, high) = self.goodput_ratio(load)
        return [
            load.name,
            "the timeout" if load.max_queue_ms is None else f"{load.max_queue_ms:.0f} ms",
            "open loop" if load.connections is None else str(load.connections),
            f"{load.goodput_per_s:.1f}",
            f"{share:.2f} ({low:.2f} to {high:.2f})",
            f"{self.share_of_cores_left(load):.2f}",
            f"{load.latency_ms_p50:.0f}",
            f"{load.latency_ms_p99:.0f}",
            f"{self.latency_ratio(load):.2f}",
            f"{load.refused_per_s:.1f}",
            f"{load.client_cores:.2f}",
        ]
