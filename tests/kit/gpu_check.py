"""Results of the GPU check with figures of one's choice."""

from typing import Any

from tuneport.schema.torch_setup import TorchSetup
from tuneport.stages.benchmarks.gpu_check.config import COMPILED, EAGER, MIXED
from tuneport.stages.benchmarks.gpu_check.endpoint_report import EndpointFigures
from tuneport.stages.benchmarks.gpu_check.speed_report import SpeedReport, WorkloadResult, check_floors


def endpoint_figures(**changes: Any) -> EndpointFigures:
    values = {
        "device": "cuda", "variant": "fp16", "workers": 8, "clients": 2, "connections": 256, "mean_tokens": 45.0,
        "client_ceiling_per_s": 30000.0, "requests_per_s": 8000.0, "latency_ms_p50": 30.0, "short_tokens": 16,
        "short_ms_p50": 1.25, "engine_ms_p50": 0.25,
    }  # fmt: skip
    return EndpointFigures.model_validate(values | changes)


def workload(name: str, eager: dict[str, float], compiled: dict[str, float]) -> WorkloadResult:
    values = dict.fromkeys((EAGER, COMPILED, *eager), 1.0)
    return WorkloadResult(workload=name, unit="ms", values=values, factors={EAGER: eager, COMPILED: compiled})


def speed_report(factor: float, wrong: dict[str, str]) -> SpeedReport:
    workloads = tuple(
        workload(name, {"fp16": factor}, {"fp16": factor})
        for name in ("1 x 16", "1 x 128", "8 x 128", "32 x 128", MIXED)
    )
    fp16 = TorchSetup(device="cuda", precision="fp16")
    return SpeedReport(
        name="x", device="cuda", baselines={EAGER: fp16, COMPILED: fp16.model_copy(update={"compiled": True})},
        compile_s={"1 x 16": 12.5}, not_compiled={}, mean_tokens=45.0, default_variant="fp16", workloads=workloads,
        differences={"fp16": 0.01}, wrong=wrong, floors=check_floors(workloads),
    )  # fmt: skip


def unmeasured(speed: SpeedReport) -> SpeedReport:
    """Return a report without the mixed lengths, and one in which torch.compile failed on a shape."""
    *shapes, last, _ = speed.workloads
    workloads = (*shapes, last.model_copy(update={"factors": {EAGER: last.factors[EAGER]}}))
    changes = {"workloads": workloads, "floors": check_floors(workloads), "not_compiled": {"32 x 128": "no C compiler"}}
    return speed.model_copy(update=changes)
