"""The engine benchmark: one device a report, and what the report says of torch and of the GPU."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuneport.errors import ArtifactError, TuneportError
from tuneport.gpu import Gpu, GpuUsage
from tuneport.host import Host
from tuneport.schema.artifact import Manifest, Timing
from tuneport.schema.torch_setup import REFERENCE, TorchDevice, TorchSetup
from tuneport.stages.benchmarks.config import BenchConfig
from tuneport.stages.benchmarks.engine import bench, select_device
from tuneport.stages.benchmarks.report import ModelResult, Report, check_one_device, write_report

H100 = Gpu(name="NVIDIA H100", compute_capability="9.0", memory_gib=80.0)


def on_devices(manifest: Manifest, **devices: str) -> Manifest:
    """Return the manifest with its variants on other devices."""
    variants = [
        each.model_copy(update={"execution": each.execution.model_copy(update={"device": devices[each.name]})})
        for each in manifest.variants
    ]
    return manifest.model_copy(update={"variants": tuple(variants), "default_variant": "fp32"})


def names(manifest: Manifest, device: TorchDevice | None) -> tuple[str, list[str], tuple[str, ...]]:
    chosen, variants, notes = select_device(manifest, device)
    return chosen, [variant.name for variant in variants], notes


def test_a_report_has_the_variants_of_one_device(manifest: Manifest) -> None:
    assert names(manifest, None) == ("cpu", ["fp32", "int8"], ())
    mixed = on_devices(manifest, fp32="cpu", int8="cuda")
    left_out = "Left out, because a report has the variants of one device, here {}: {}."
    assert names(mixed, None) == ("cpu", ["fp32"], (left_out.format("cpu", "int8 (cuda)"),))
    assert names(mixed, "cuda") == ("cuda", ["int8"], (left_out.format("cuda", "fp32 (cpu)"),))
    # TensorRT's variants run on the same GPU as those for CUDA.
    assert names(on_devices(manifest, fp32="cuda", int8="tensorrt"), None) == ("cuda", ["fp32", "int8"], ())
    with pytest.raises(ArtifactError, match=r"no variant for cuda.*--device cpu"):
        select_device(manifest, "cuda")


def result(name: str, device: TorchDevice = "cuda", **fields: Any) -> ModelResult:
    timing = Timing(
        texts=10, latency_ms_p50=1, latency_ms_p95=2, latency_ms_p99=3, texts_per_s=500, speed_up=2.5,
        baseline="torch fp16",
    )  # fmt: skip
    values = {
        "torch": None, "compile_s": None, "metric": None, "agreement": 1.0, "size_bytes": None, "gpu": GpuUsage(),
        "max_batch_tokens": 1024, **fields,
    }  # fmt: skip
    return ModelResult(name=name, device=device, timing=timing, **values)


def report(*results: ModelResult, device: TorchDevice = "cuda") -> Report:
    host = Host(
        cpu="a processor", cores=2, instructions=(), memory_gib=8, system="Linux x86_64", gpus=(H100,), driver="590.1"
    )
    return Report(
        name="x", version="1", default_variant="fp16", data=None, split="test", mean_tokens=45.0, device=device,
        host=host, config={}, git_commit=None, created="2026-01-01T00:00:00+00:00", results=results,
        notes=("Not timed: torch bf16: it differs from torch fp32.",),
    )  # fmt: skip


def test_a_report_that_mixes_devices_is_refused(tmp_path: Path) -> None:
    mixed = report(result(REFERENCE, "cpu", torch=TorchSetup()), result("fp16", "cuda"))
    with pytest.raises(TuneportError, match=r"mixes devices: torch fp32 on cpu, fp16 on cuda; .*--device"):
        write_report(tmp_path, mixed)
    assert list(tmp_path.iterdir()) == []
    check_one_device(report(result("a"), result("b")).results)


def test_a_report_of_a_gpu_names_it_and_has_its_memory_utilization_and_energy(tmp_path: Path) -> None:
    usage = GpuUsage(memory_mib=812.4, utilization=0.87, energy_j_per_1000_texts=3.21)
    compiled = TorchSetup(device="cuda", precision="fp16", compiled=True)
    write_report(tmp_path, report(result(compiled.name, torch=compiled, compile_s=21.5), result("fp16", gpu=usage)))
    text = (tmp_path / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| fp16 *"))
    assert [cell.strip() for cell in row.strip("|").split("|")][-5:] == ["812", "87%", "3.2", "2.50 x", "torch fp16"]
    for phrase in ("NVIDIA H100, driver 590.1", "torch.compile took 21.5 s", "Not timed: torch bf16"):
        assert phrase in text
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["results"][0]["torch"]["compiled"]
    assert found["results"][1]["gpu"]["energy_j_per_1000_texts"] == 3.21


def test_a_report_of_a_processor_has_no_figures_of_a_gpu(tmp_path: Path) -> None:
    write_report(tmp_path, report(result(REFERENCE, "cpu", torch=TorchSetup()), result("fp16", "cpu"), device="cpu"))
    text = (tmp_path / "report.md").read_text()
    assert "GPU" not in text
    assert "H100" not in text


@pytest.mark.gpu
def test_bench_on_cuda_times_torch_on_cuda(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from kit.exports import export_variants

    export_variants(tiny_checkpoint, tiny_data, tmp_path / "artifact", device="cuda")
    found = bench(BenchConfig(artifact=tmp_path / "artifact", num_inputs=40, rounds=1), tmp_path / "report")
    assert {each.device for each in found.results} == {"cuda"}
    baselines = {each.name: each.torch for each in found.results if each.torch}
    assert {"torch fp32", "torch fp16"} <= baselines.keys()
    assert not baselines["torch fp32"].tf32
    for each in found.results:
        assert each.gpu.memory_mib is not None
