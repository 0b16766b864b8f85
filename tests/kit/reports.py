"""Reports of the engine benchmark with figures of one's choice."""

from typing import Any

from tuneport.gpu import Gpu, GpuUsage
from tuneport.host import Host
from tuneport.schema.artifact import Timing
from tuneport.schema.torch_setup import TorchDevice
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


def engine_report(*results: ModelResult, device: TorchDevice = "cuda", cores: int = 2) -> Report:
    """Return a report of results on a host with a GPU."""
    host = Host(
        cpu="a processor", cores=cores, instructions=(), memory_gib=8, system="Linux x86_64", gpus=(H100,),
        driver="590.1",
    )  # fmt: skip
    return Report(
        name="x", version="1", default_variant="fp16", data=None, split="test", mean_tokens=45.0, device=device,
        host=host, config={}, git_commit=None, created="2026-01-01T00:00:00+00:00", results=results,
        notes=("Not timed: torch bf16: it differs from torch fp32.",),
    )  # fmt: skip
