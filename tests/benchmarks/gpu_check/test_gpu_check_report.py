"""The report of the GPU check says what was missed, what was not measured, and what was not run."""

from pathlib import Path
from typing import Any

from kit.gpu_check import endpoint_figures, speed_report, unmeasured

from tuneport.gpu import Gpu
from tuneport.host import Host
from tuneport.stages.benchmarks.gpu_check.report import GpuCheckReport, write_gpu_report
from tuneport.stages.benchmarks.gpu_check.steps import StepResult


def test_the_report_says_what_was_missed(tmp_path: Path) -> None:
    speed = speed_report(2.5, {"fp32": "agreement 80.0%"})
    assert not speed.is_passed
    speed = unmeasured(speed)
    assert not speed_report(2.5, {}).is_passed  # 3 x at batch 1
    assert speed_report(3.5, {}).is_passed
    common: dict[str, Any] = {"seconds": 1.0, "limit_s": 9.0}
    measured = speed.model_dump(mode="json")
    slow = endpoint_figures(requests_per_s=5000.0, client_ceiling_per_s=6000.0, short_ms_p50=None).model_dump(
        mode="json"
    )
    not_run = {"tensorrt-fp16": "tensorrt-fp16 needs TensorRT"}
    variants = {"passed": ["fp32"], "missing": {"bf16": "agreement 80 %"}, "not_run": not_run}
    nodes = {"fp16": {"nodes": 120, "on_cpu": 3, "copies": 2}}
    steps = (
        StepResult(name="environment", status="passed", exit_code=0, **common),
        StepResult(name="speed-tuned", status="failed", exit_code=1, result=measured, **common),
        StepResult(name="variants-tuned", status="failed", exit_code=1, result=variants, **common),
        StepResult(name="placement-tuned", status="passed", exit_code=0, result={"summary": nodes}, **common),
        StepResult(name="endpoint", status="failed", exit_code=1, result=slow, **common),
    )
    host = Host(
        cpu="a", cores=2, instructions=(), memory_gib=8, system="Linux x86_64", driver="590.1", cuda="13.1",
        gpus=(Gpu(name="NVIDIA H100", compute_capability="9.0", memory_gib=80.0, power_limit_w=700.0),),
    )  # fmt: skip
    report = GpuCheckReport(
        schema_version=2, name="h100", device="cuda", model="minilm-l6", data="BBC News", host=host, git_commit="abc",
        created="2026-01-01T00:00:00+00:00", minutes=6.0, steps=steps,
    )  # fmt: skip
    assert not report.is_passed
    write_gpu_report(tmp_path, report)
    text = (tmp_path / "report.md").read_text()
    for phrase in (
        "NVIDIA H100",
        "**failed**",
        "**missed**",
        "**fp32 is wrong**",
        "fp16 *",
        "1 x 16 12.5 s",
        "700.0 W",
        "tuned: **bf16 was rejected**: agreement 80 %",
        "tensorrt-fp16 was not run: it needs TensorRT.",
        "| tuned | fp16 | 120 | 3 | 2 |",
        "8 workers that share one engine process; 256 connections from 2 processes",
        "| 5,000 | **missed**: 5000, the floor is at least 8,000, and the load generator itself reaches 6000",
        "at most 1 |  | **not measured** |",
        "| 32 x 128 | torch compiled | 1 x |  |  | **not measured** (torch.compile failed: no C compiler) |",
        "| mixed lengths | torch eager | 2 x |  |  | **not measured** |",
    ):
        assert phrase in text
    assert GpuCheckReport.model_validate_json((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
