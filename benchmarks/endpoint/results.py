"""The records of the endpoint benchmark, as report.json holds them."""

from tuneport.host import Host
from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice


class LevelResult(Frozen):
    """One server in a closed loop of some connections: medians of the rounds, percentiles over all of them."""

    connections: int
    requests_per_s: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
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
    latency_ms_p99: float
    """Of the accepted requests."""
    full_load_ms_p99: float
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


class EndpointReport(Frozen):
    """report.json."""

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
    short_text: ShortTextResult | None
    """None for inputs that are not plain texts."""
    notes: tuple[str, ...]
    """Servers that could not take part, and why."""
