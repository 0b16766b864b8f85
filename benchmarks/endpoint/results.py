"""The records of the endpoint benchmark, as report.json holds them."""

from typing import Literal

from tuneport.host import Host
from tuneport.schema.artifact import Interval
from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice

from ..machine import MachineState

HTTP, GRPC = "tuneport HTTP", "tuneport gRPC"
"""Names of tuneport's own server in a report, asked over each protocol."""


class LevelResult(Frozen):
    """One server in a closed loop of some connections: medians of the rounds, percentiles over all of them."""

    connections: int
    requests_per_s: float
    requests_per_s_interval: Interval | None = None
    """Of the median over the seconds of all rounds."""
    latency_ms_p50: float
    latency_ms_p50_interval: Interval | None = None
    latency_ms_p95: float
    latency_ms_p99: float | None
    """None, as of each percentile, if there were too few responses for it."""
    latency_ms_p999: float | None = None
    latency_ms_quantiles: tuple[float, ...] = ()
    """Latencies below which 0, 5, 10, … 100 % of the requests were answered."""
    errors: int
    """Requests without status 200, those of the warm-up included."""
    cpu_ms_per_request: float
    """CPU time of all processes of the server."""
    padding_share: float | None
    """Share of padding among the tokens that the engine computed; None for servers without such a metric."""
    gpu_utilization: float | None
    """Mean share of the time in which the GPU ran a kernel; None on a CPU."""
    energy_j_per_1000_requests: float | None
    """Of the whole GPU; None on a CPU."""
    client_cpu_share: float
    """Cores that the load generator kept busy; the largest of the rounds."""


class TargetResult(Frozen):
    """One server."""

    name: str
    agreement: float
    """Share of the golden cases with torch's prediction."""
    changed_under_load: int
    """Compared inputs with another prediction under load; those of all loads and rounds added up."""
    ready_s: float
    """From the command to 200 at /readyz; median of the rounds."""
    worker_mib: float
    """Resident memory of the server's largest process after the load; the largest of the rounds."""
    total_mib: float
    """Resident memory of all its processes; the largest of the rounds."""
    gpu_memory_mib: float | None
    """GPU memory that the server took; mean of the rounds, None on a CPU."""
    levels: tuple[LevelResult, ...]

    @property
    def best_level(self) -> LevelResult:
        """Return the level with the highest throughput."""
        return max(self.levels, key=lambda level: level.requests_per_s)


class ClientCeiling(Frozen):
    """The load generator against a server that does no work."""

    connections: int
    requests_per_s: float
    client_cpu_ms_per_request: float


class OverloadResult(Frozen):
    """tuneport's HTTP endpoint in an open loop at twice its highest throughput."""

    offered_per_s: float
    goodput_per_s: float
    """Responses with status 200 per second."""
    best_per_s: float
    """Highest throughput in a closed loop."""
    latency_ms_p99: float | None
    """Of the accepted requests."""
    full_load_ms_p99: float | None
    """p99 latency at the highest throughput."""
    statuses: dict[int, int]
    """Status → number of requests."""


class ShortTextResult(Frozen):
    """One short text on one connection, and the engine alone on the same row."""

    tokens: int
    latency_ms_p50: float
    engine_ms_p50: float
    cpu_ms_per_request: float
    engine_cpu_ms: float


class RateResult(Frozen):
    """One server in an open loop: requests arrive at random times at a mean rate, answered or not."""

    offered_per_s: float
    answered_per_s: float
    latency_ms_p50: float | None
    """From the arrival, whether or not the request could be sent then; None if nothing was answered."""
    latency_ms_p99: float | None
    failed: int
    """Requests without status 200."""
    client_cpu_share: float
    """Cores that the load generator kept busy."""
    holds: bool
    """Whether p99 was within the objective and no request failed."""


class RateSearch(Frozen):
    """The search for the highest rate at which a server holds a latency objective."""

    name: str
    slo_p99_ms: float
    highest_per_s: float | None
    """None if it holds the objective at no rate that was tried."""
    rates: tuple[RateResult, ...]
    """In the order in which they were tried."""


class EndpointReport(Frozen):
    """report.json."""

    schema_version: Literal[2] = 2
    kind: Literal["endpoint"] = "endpoint"
    name: str
    version: str
    variant: str
    num_inputs: int
    mean_tokens: float
    """Mean length of an input, in tokens."""
    source: str
    """Name of the data."""
    device: TorchDevice
    """What all servers ran on."""
    host: Host
    config: dict[str, object]
    git_commit: str | None
    created: str
    """UTC, ISO 8601."""
    results: tuple[TargetResult, ...]
    client_ceilings: tuple[ClientCeiling, ...]
    overload: OverloadResult
    rate_searches: tuple[RateSearch, ...] = ()
    """Of each server; empty without an objective."""
    machine: MachineState | None = None
    short_text: ShortTextResult | None
    """None for inputs that are not plain texts."""
    notes: tuple[str, ...]
    """Servers that could not take part, and why."""
