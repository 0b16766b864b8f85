"""Reports of the benchmarks with figures of one's choice."""

from typing import Any

from tuneport.gpu import Gpu, GpuUsage
from tuneport.host import Host
from tuneport.schema.artifact import Timing
from tuneport.schema.torch_setup import TorchDevice
from tuneport.stages.benchmarks.endpoint.results import (
    EndpointReport,
    LevelResult,
    OverloadResult,
    RateResult,
    RateSearch,
    TargetResult,
)
from tuneport.stages.benchmarks.report import ModelResult, Report

H100 = Gpu(name="NVIDIA H100", compute_capability="9.0", memory_gib=80.0)


def model_result(name: str, device: TorchDevice = "cuda", **fields: Any) -> ModelResult:
    """Return the result of a model; fields of `Timing` go there."""
    timing = {
        "texts": 10, "latency_ms_p50": 1, "latency_ms_p95": 2, "latency_ms_p99": 3, "texts_per_s": 500,
        "speed_up": 2.5, "baseline": "torch fp16",
    }  # fmt: skip
    timing |= {field: fields.pop(field) for field in Timing.model_fields if field in fields}
    values = {
        "torch": None, "compile_s": None, "metric": None, "agreement": 1.0, "size_bytes": None, "gpu": GpuUsage(),
        "max_batch_tokens": 1024, **fields,
    }  # fmt: skip
    return ModelResult(name=name, device=device, timing=Timing.model_validate(timing), **values)


def host_with_gpu(cores: int = 2) -> Host:
    """Return a host."""
    return Host(
        cpu="a processor", cores=cores, instructions=(), memory_gib=8, system="Linux x86_64", gpus=(H100,),
        driver="590.1",
    )  # fmt: skip


def engine_report(*results: ModelResult, device: TorchDevice = "cuda", cores: int = 2) -> Report:
    """Return a report of results on a host with a GPU."""
    return Report(
        name="x", version="1", default_variant="fp16", data=None, split="test", mean_tokens=45.0, device=device,
        host=host_with_gpu(cores), config={}, git_commit=None, created="2026-01-01T00:00:00+00:00", results=results,
        notes=("Not timed: torch bf16: it differs from torch fp32.",),
    )  # fmt: skip


def level(connections: int, per_s: float, p99: float | None, *, errors: int = 0, **fields: Any) -> LevelResult:
    """Return a server's figures at some connections; `interval` is that of the rate."""
    return LevelResult(
        connections=connections, requests_per_s=per_s, requests_per_s_interval=fields.pop("interval", None),
        latency_ms_p50=5, latency_ms_p95=8, latency_ms_p99=p99, errors=errors, cpu_ms_per_request=1,
        padding_share=None, gpu_utilization=None, energy_j_per_1000_requests=None, client_cpu_share=0.1,
        latency_ms_quantiles=(1.0, 5.0, 9.0), **fields,
    )  # fmt: skip


def server(name: str, *levels: LevelResult) -> TargetResult:
    """Return the results of a server."""
    return TargetResult(
        name=name, agreement=1, changed_under_load=0, ready_s=2, worker_mib=100, total_mib=200, gpu_memory_mib=None,
        levels=levels,
    )  # fmt: skip


def rate(offered_per_s: float, p99: float, *, failed: int = 0) -> RateResult:
    """Return what was measured at a rate of the open loop."""
    return RateResult(
        offered_per_s=offered_per_s, answered_per_s=offered_per_s, latency_ms_p50=5, latency_ms_p99=p99, failed=failed,
        client_cpu_share=0.1, holds=failed == 0,
    )  # fmt: skip


def endpoint_report(
    *results: TargetResult, searches: dict[str, tuple[RateResult, ...]] | None = None
) -> EndpointReport:
    """Return an endpoint report of servers on a CPU, with searches of rates by the server's name."""
    return EndpointReport(
        name="x", version="1", variant="int8", num_inputs=10, mean_tokens=45.0, source="data", device="cpu",
        host=host_with_gpu(), config={}, git_commit=None, created="2026-01-01T00:00:00+00:00", results=results,
        client_ceilings=(), short_text=None, notes=(),
        overload=OverloadResult(
            offered_per_s=2, goodput_per_s=1, best_per_s=1, latency_ms_p99=None, full_load_ms_p99=None, statuses={}
        ),
        rate_searches=tuple(
            RateSearch(name=name, slo_p99_ms=50, highest_per_s=None, rates=rates)
            for name, rates in (searches or {}).items()
        ),
    )  # fmt: skip
