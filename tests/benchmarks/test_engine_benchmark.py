"""The engine benchmark: one device a report, and what the report says of torch and of the GPU."""

import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kit.data import write_rows
from kit.reports import engine_report, model_result

from tuneport.errors import ArtifactError, DataError, TuneportError
from tuneport.gpu import GpuUsage
from tuneport.runtime.batch import EncodedInput
from tuneport.schema.artifact import Manifest
from tuneport.schema.torch_setup import REFERENCE, TorchDevice, TorchSetup
from tuneport.stages.benchmarks import shapes as shapes_module
from tuneport.stages.benchmarks.baselines import open_baseline, read_workload
from tuneport.stages.benchmarks.config import BenchConfig
from tuneport.stages.benchmarks.engine import bench, select_device
from tuneport.stages.benchmarks.flops import product_flops_per_token, product_share
from tuneport.stages.benchmarks.pictures import engine_figures
from tuneport.stages.benchmarks.report import check_one_device
from tuneport.stages.benchmarks.report_files import write_report
from tuneport.stages.benchmarks.reuse import timings_of_export
from tuneport.stages.benchmarks.shapes import may_use_cudnn, parse_shapes, time_fastest, time_shapes
from tuneport.stages.export.target import BenchmarkTarget


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


def test_the_inputs_are_those_of_the_split_that_is_named(
    manifest: Manifest, tiny_artifact: Path, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    rows = [{"text": "a bank", "label": "calm"}, {"text": "a band", "label": "calm"}]
    write_rows(tmp_path / "data" / "holdout.jsonl", rows)
    config = BenchConfig(artifact=tiny_artifact, checkpoint=tiny_checkpoint, data=str(tmp_path / "data"))
    task = open_baseline(manifest, config).task
    assert len(read_workload(manifest, task, config).inputs) > 2
    named = config.model_copy(update={"splits": {"test": "holdout"}})
    assert read_workload(manifest, task, named).inputs == ["a bank", "a band"]
    for ignored in ({"splits": {"test": "holdout"}}, {"columns": {"text": "review"}}):
        with pytest.raises(DataError, match="--columns and --splits are for --data, which is not given"):
            read_workload(manifest, task, config.model_copy(update={"data": None, **ignored}))


def test_a_report_that_mixes_devices_is_refused(tmp_path: Path) -> None:
    mixed = engine_report(model_result(REFERENCE, "cpu", torch=TorchSetup()), model_result("fp16", "cuda"))
    with pytest.raises(TuneportError, match=r"mixes devices: torch fp32 on cpu, fp16 on cuda; .*--device"):
        write_report(tmp_path, mixed)
    assert list(tmp_path.iterdir()) == []
    check_one_device(engine_report(model_result("a"), model_result("b")).results)


def test_a_report_of_a_gpu_names_it_and_has_its_memory_utilization_and_energy(tmp_path: Path) -> None:
    usage = GpuUsage(memory_mib=812.4, utilization=0.87, energy_j_per_1000_texts=3.21)
    compiled = TorchSetup(device="cuda", precision="fp16", compiled=True)
    write_report(
        tmp_path,
        engine_report(model_result(compiled.name, torch=compiled, compile_s=21.5), model_result("fp16", gpu=usage)),
    )
    text = (tmp_path / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| fp16 *"))
    assert [cell.strip() for cell in row.strip("|").split("|")][-5:] == ["812", "87%", "3.2", "2.50 x", "torch fp16"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!#)', page)  # nothing is loaded
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    for phrase in ("NVIDIA H100, driver 590.1", "torch.compile took 21.5 s", "Not timed: torch bf16"):
        assert phrase in text
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["results"][0]["torch"]["compiled"]
    assert found["results"][1]["gpu"]["energy_j_per_1000_texts"] == 3.21


def test_labels_of_pictures_lie_within_them() -> None:
    """Long names and units, of which an axis once lost the end."""
    names = ("torch fp32", "fp16-packed-mha with a very long name of a variant")
    figures = engine_figures(
        engine_report(*(model_result(name, latency_ms_quantiles=(1.0, 2.0, 9.0)) for name in names))
    )
    assert figures
    for figure in figures:
        picture = figure.picture
        picture.draw_without_rendering()  # lays it out
        drawn = picture.get_tightbbox()  # in inches, of all that is visible
        width, height = picture.get_size_inches()
        assert drawn.x0 >= -0.01, figure.title
        assert drawn.y0 >= -0.01, figure.title
        assert drawn.x1 <= width + 0.01, figure.title
        assert drawn.y1 <= height + 0.01, figure.title


@pytest.mark.parametrize("setting", [{}, {"rounds": 1}, {"data": "x"}, {"remeasure": True}])
def test_timings_of_a_recent_export_on_this_machine_are_not_repeated(
    manifest: Manifest, setting: dict[str, object]
) -> None:
    config = BenchConfig.model_validate({"artifact": "x", **setting})
    here = manifest.host
    found = timings_of_export(manifest, config, here)
    assert (found.keys() >= {"torch fp32", "fp32", "int8"}) == (not setting)
    assert timings_of_export(manifest, config, here.model_copy(update={"cores": 99})) == {}
    old = manifest.provenance.model_copy(update={"created": "2020-01-01T00:00:00+00:00"})
    assert timings_of_export(manifest.model_copy(update={"provenance": old}), config, here) == {}


def test_timings_that_the_export_cut_short_are_repeated(manifest: Manifest) -> None:
    config, provenance = BenchConfig(artifact=Path("x")), manifest.provenance
    short = {**provenance.config, "export": {**provenance.config["export"], "max_seconds": 0.5}}
    changed = manifest.model_copy(update={"provenance": provenance.model_copy(update={"config": short})})
    assert timings_of_export(changed, config, manifest.host) == {}


@pytest.mark.parametrize("text", ["8", "0x8", "8x", "8x-1", "x"])
def test_what_is_no_shape_is_named(text: str) -> None:
    with pytest.raises(TuneportError, match="is no shape"):
        parse_shapes([text])


def test_fixed_shapes_are_those_that_were_asked_for_unless_they_are_too_long() -> None:
    seen: list[tuple[int, int]] = []
    target = BenchmarkTarget(lambda rows: seen.append((len(rows), len(rows[0]))), TorchSetup())
    rows = [EncodedInput([1, 2, 3], [0, 0, 0], False)]
    shapes = parse_shapes(["1x2", "4x8", "1x99"])
    timings, notes = time_shapes({"torch fp32": target}, rows, shapes, max_length=16)
    assert set(seen) == {(1, 2), (4, 8)}
    assert [shape.name for shape in timings["torch fp32"]] == ["1 × 2", "4 × 8"]
    assert notes == ("Shapes longer than the model's 16 tokens are left out: 1 × 99.",)


@pytest.mark.parametrize("slow", ["torch fp16", "torch fp16, attention in cuDNN"])
def test_torch_on_a_fixed_shape_is_the_faster_of_attention_with_and_without_cudnn(
    slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(shapes_module, "time", SimpleNamespace(perf_counter=lambda: clock[0], monotonic=time.monotonic))

    def target(seconds: float) -> BenchmarkTarget:
        def run(_: object) -> None:
            clock[0] += seconds

        return BenchmarkTarget(run, TorchSetup(device="cuda", precision="fp16"))

    paces = [0.02, 0.01] if slow == "torch fp16" else [0.01, 0.02]
    rows, shapes = [EncodedInput([1, 2, 3], [0, 0, 0], False)], parse_shapes(["1x2", "4x8"])
    without, with_it, variant = (target(seconds) for seconds in (*paces, 0.03))
    targets = {"torch fp16": without, "fp16": variant}
    timings, notes = time_fastest(targets, {"torch fp16": with_it}, rows, shapes, max_length=16)
    assert {name: [each.latency_ms for each in found] for name, found in timings.items()} == {
        "torch fp16": [10.0, 10.0], "fp16": [30.0, 30.0],
    }  # fmt: skip
    assert "the faster of both counts: torch fp16" in notes[0]


@pytest.mark.parametrize(
    ("setup", "may"),
    [
        (TorchSetup(device="cuda", precision="fp16"), True),
        (TorchSetup(device="cuda", precision="bf16"), True),
        (TorchSetup(device="cuda", precision="fp16", compiled=True), False),
        (TorchSetup(device="cuda", tf32=True), False),
        (TorchSetup(precision="bf16"), False),
    ],
)
def test_cudnn_s_attention_is_tried_where_a_gpu_has_it(setup: TorchSetup, may: bool) -> None:
    assert may_use_cudnn(setup) == may


def test_operations_of_products_and_their_share_of_the_ceiling() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(1000, 64), torch.nn.Linear(64, 128), torch.nn.Linear(128, 64))
    flops = product_flops_per_token(model)
    assert flops == 2 * 2 * 64 * 128
    assert product_share(1e6, flops, {"fp32": 0.05, "bf16": 0.1}) == pytest.approx(1e6 * flops / 0.1e12, abs=1e-4)
    assert product_share(None, flops, {"fp32": 0.05}) is None
    assert product_share(1e6, flops, {}) is None


def test_a_report_of_a_processor_has_no_figures_of_a_gpu(tmp_path: Path) -> None:
    write_report(
        tmp_path,
        engine_report(model_result(REFERENCE, "cpu", torch=TorchSetup()), model_result("fp16", "cpu"), device="cpu"),
    )
    text = (tmp_path / "report.md").read_text()
    assert "GPU" not in text
    assert "H100" not in text


@pytest.mark.gpu
def test_bench_on_cuda_times_torch_on_cuda(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    from kit.exports import export_variants

    export_variants(tiny_checkpoint, tiny_data, tmp_path / "artifact", device="cuda")
    found = bench(BenchConfig(artifact=tmp_path / "artifact", num_inputs=40, rounds=1), tmp_path / "report")
    assert {each.device for each in found.results} == {"cuda"}
    baselines = {each.name: each.torch for each in found.results if each.torch}
    assert {"torch fp32", "torch fp16"} <= baselines.keys()
    assert not baselines["torch fp32"].tf32
    for each in found.results:
        assert each.gpu.memory_mib is not None
