"""What is made of an fp32 graph: each variant answers, and one that fails keeps as little as it must in fp32."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from helpers import LABELS, ROOT, TorchReference, build_checkpoint, read_rows, tuneport, write_data
from tiny import FAMILIES, tiny_encoder
from transformers import AutoConfig, AutoModelForSequenceClassification

from tuneport.errors import EngineError, TuneportError
from tuneport.host import Host
from tuneport.runtime.backends.onnxruntime import OnnxRuntimeBackend
from tuneport.runtime.batch import pad
from tuneport.runtime.loading import open_task
from tuneport.runtime.verify import verify
from tuneport.schema.artifact import Device, Manifest
from tuneport.schema.loading import load_manifest
from tuneport.stages.export import to_onnx
from tuneport.stages.export.calibration import calibrate, calibration_error, fit_temperature
from tuneport.stages.export.passes.fp16 import nodes_beyond_fp16, to_fp16
from tuneport.stages.export.passes.int8 import quantize_calibrated, quantize_dynamic
from tuneport.stages.export.passes.prune import prune_layers
from tuneport.stages.export.passes.smoothquant import smoothquant
from tuneport.stages.export.pipeline import ExportConfig, export, reduces_range
from tuneport.stages.export.variants import VARIANTS, select_variants
from tuneport.stages.serve.predictor import Predictor
from tuneport.stages.serve.settings import Settings

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
TEXTS = ["bank", "the team won the game", "Größe 🙂"]


def made(checkpoint: Path, data: Path, out: Path, *variants: str, **settings: Any) -> Manifest:
    config = {"checkpoint": checkpoint, "data": str(data), "variants": variants, **settings}
    return export(ExportConfig.model_validate(config), out)


def labels(artifact: Path, variant: str) -> list[str]:
    predictor = Predictor(artifact, Settings(variant=variant))
    return [answer["label"] for answer in predictor.predict(TEXTS)]


def op_types(file: Path) -> set[str]:
    return {node.op_type for node in onnx.load(file).graph.node}


def test_the_fused_graph_has_fused_operators_and_the_same_answers(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    manifest = made(tiny_checkpoint, tiny_data, tmp_path / "out", "fused")
    fused = manifest.variant("fused")
    assert fused.parity.max_abs_diff <= 1e-3
    assert {"Attention", "SkipLayerNormalization"} <= op_types(tmp_path / "out" / fused.files[0].path)
    assert labels(tmp_path / "out", "fused") == TorchReference(tiny_checkpoint).labels(TEXTS)


@pytest.mark.parametrize("ranges", ["minmax", "entropy", "percentile"])
def test_static_int8_is_calibrated_by_every_method(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, ranges: str
) -> None:
    settings = {"calibration": ranges, "calibration_rows": 40, "mixed_precision_minutes": 0, "max_drop": 1}
    manifest = made(tiny_checkpoint, tiny_data, tmp_path / "out", "int8-static", **settings)
    judged = [each.parity for each in (*manifest.variants, *manifest.rejected) if each.name == "int8-static"]
    assert judged[0] is not None
    assert judged[0].agreement > 0.9
    if not manifest.rejected:
        assert "QuantizeLinear" in op_types(tmp_path / "out" / manifest.variant("int8-static").files[0].path)


@needs_openvino
def test_engines_that_were_closed_leave_signals_alone(tiny_artifact: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from tuneport.runtime.backends.openvino import OpenVinoEngine
first, second = (OpenVinoEngine(Path(sys.argv[1]), precision="fp32") for _ in range(2))
del first
del second
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    command = [sys.executable, "-c", program, str(tiny_artifact / "onnx/fp32/model.onnx")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "handled\n")


@needs_openvino
def test_openvino_serves_the_same_file_and_an_int8_one_of_its_own(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    manifest = made(tiny_checkpoint, tiny_data, tmp_path / "out", "openvino", "openvino-int8", max_drop=1)
    assert manifest.variant("openvino").files == manifest.variant("fp32").files
    assert labels(tmp_path / "out", "openvino") == TorchReference(tiny_checkpoint).labels(TEXTS)
    assert [file.path for file in manifest.variant("openvino-int8").files] == [
        "onnx/openvino-int8/model.xml", "onnx/openvino-int8/model.bin",
    ]  # fmt: skip
    assert {name for name, *_ in verify(tmp_path / "out")} == {"fp32", "openvino", "openvino-int8"}


def on_processor(*instructions: str) -> Host:
    return Host(cpu="test", cores=2, instructions=instructions, memory_gib=8, system="Linux x86_64")


@pytest.mark.parametrize(
    ("instructions", "asked", "device", "reduces"),
    [
        (("avx2",), None, "cpu", True),
        (("avx2", "avx512f"), None, "cpu", True),
        (("avx2", "avx_vnni"), None, "cpu", False),
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), None, "cpu", False),
        (("avx2",), "vnni", "cpu", False),
        (("avx2", "avx512_vnni"), "avx2", "cpu", True),
        (("avx2",), None, "tensorrt", False),
    ],
)
def test_int8_weights_get_seven_bits_for_processors_that_would_saturate(
    instructions: tuple[str, ...], asked: Any, device: Device, reduces: bool
) -> None:
    config = ExportConfig(checkpoint=Path("x"), instruction_set=asked, device=device)
    assert reduces_range(config, on_processor(*instructions)) == reduces
    arm = on_processor("asimddp").model_copy(update={"system": "Linux aarch64"})
    assert not arm.int8_saturates


@pytest.mark.parametrize("build", ["dynamic", "static"])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_a_reduced_range_shows_in_the_weights(
    tiny_artifact: Path, manifest: Manifest, tmp_path: Path, build: str, reduce_range: bool
) -> None:
    fp32 = tiny_artifact / manifest.variant("fp32").files[0].path
    if build == "dynamic":
        quantize_dynamic(fp32, tmp_path, reduce_range=reduce_range)
    else:
        quantize_calibrated(fp32, tmp_path, feeds_of(tiny_artifact, manifest), reduce_range=reduce_range)
    weights = [
        onnx.numpy_helper.to_array(each).astype(int)
        for each in onnx.load(tmp_path / "model.onnx").graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 2
    ]
    assert weights
    assert (max(np.abs(each).max() for each in weights) <= 64) == reduce_range


def test_int8_for_a_processor_without_vnni_passes_its_gate_anywhere_and_says_so(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "here", lambda: on_processor("avx2"))
    manifest = made(tiny_checkpoint, tiny_data, tmp_path / "out", "int8")
    assert manifest.variant("int8").reduce_range
    assert not manifest.variant("fp32").reduce_range
    assert labels(tmp_path / "out", "int8") == TorchReference(tiny_checkpoint).labels(TEXTS)


def plant_outlier(checkpoint: Path) -> None:
    """Let one hidden value of a layer dwarf the others, as some large models' do: one scale fits them all badly."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.output.dense.weight *= 4
        layer.intermediate.dense.weight[3] *= 1e4
        layer.output.dense.weight[:, 3] /= 1e4
    model.save_pretrained(checkpoint)


def test_a_quantized_variant_that_fails_keeps_the_parts_it_needs_in_fp32(tmp_path: Path) -> None:
    build_checkpoint(tmp_path / "checkpoint")
    plant_outlier(tmp_path / "checkpoint")
    (tmp_path / "data").mkdir()
    write_data(tmp_path / "data", tmp_path / "checkpoint", margin=0.2)
    at_once = made(tmp_path / "checkpoint", tmp_path / "data", tmp_path / "at_once", "int8", mixed_precision_minutes=0)
    assert [each.name for each in at_once.rejected] == ["int8"]
    manifest = made(tmp_path / "checkpoint", tmp_path / "data", tmp_path / "out", "int8", mixed_precision_minutes=3)
    int8 = manifest.variant("int8")
    assert int8.parity.agreement >= 0.99
    assert any("layer.1/output" in part for part in int8.fp32_parts)
    assert len(int8.fp32_parts) <= 3
    assert "MatMulInteger" in op_types(tmp_path / "out" / int8.files[0].path)
    shown = tuneport("inspect", tmp_path / "out").out
    assert "keeps in fp32" in shown


def test_smoothing_computes_the_same_and_tames_an_outlier(
    tmp_path: Path, tiny_artifact: Path, manifest: Manifest
) -> None:
    build_checkpoint(tmp_path / "checkpoint")
    plant_outlier(tmp_path / "checkpoint")
    (tmp_path / "data").mkdir()
    write_data(tmp_path / "data", tmp_path / "checkpoint", margin=0.2)
    gaps = []
    for smooth_quant in (False, True):
        settings = {"mixed_precision_minutes": 0, "max_drop": 1, "smooth_quant": smooth_quant}
        out = tmp_path / str(smooth_quant)
        made_now = made(tmp_path / "checkpoint", tmp_path / "data", out, "int8-static", **settings)
        every = (*made_now.variants, *made_now.rejected)
        gaps.append(next(1 - each.parity.agreement for each in every if each.name == "int8-static" and each.parity))
    assert gaps[1] < 0.5 * gaps[0]
    fp32 = tiny_artifact / manifest.variant("fp32").files[0].path
    feeds = feeds_of(tiny_artifact, manifest)
    smoothquant(fp32, tmp_path / "smoothed.onnx", feeds)
    before, after = (OnnxRuntimeBackend(path).run(feeds[0])["logits"] for path in (fp32, tmp_path / "smoothed.onnx"))
    assert np.abs(before - after).max() < 1e-4


def test_weights_beyond_one_file_stand_in_a_second(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "LARGEST_IN_ONE_FILE", 10_000)
    variants = ["int8", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    manifest = made(tiny_checkpoint, tiny_data, tmp_path / "out", *variants)
    fp32 = [file.path for file in manifest.variant("fp32").files]
    assert fp32 == ["onnx/fp32/model.onnx", "onnx/fp32/model.onnx_data"]
    assert (tmp_path / "out" / fp32[0]).stat().st_size < (tmp_path / "out" / fp32[1]).stat().st_size
    assert {name for name, *_ in verify(tmp_path / "out")} == {"fp32", *variants}
    (tmp_path / "out" / fp32[1]).write_bytes(b"")
    assert tuneport("verify", tmp_path / "out").code == 1


def test_what_the_machine_cannot_run_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "has_bf16", property(lambda _: False))
    with pytest.raises(TuneportError, match="openvino-bf16 needs"):
        select_variants(("openvino-bf16",), "cpu")
    assert "openvino-bf16" not in select_variants((), "cpu")
    with pytest.raises(TuneportError, match="int8-static is calibrated on data"):
        select_variants(("int8-static",), "cpu", rows=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TuneportError, match=r"openvino needs OpenVINO.*tuneport\[openvino\]"):
        select_variants(("openvino",), "cpu")
    assert set(select_variants((), "cpu")) == {"fp32", "int8"}
    assert all(recipe.engine for recipe in VARIANTS.values())


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path: Path, device: Device) -> None:
    config = ExportConfig(checkpoint=tmp_path / "nowhere", device=device)
    with pytest.raises(EngineError, match=r"this onnxruntime has no .*; install tuneport\[gpu\]"):
        export(config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def random_logits(temperature: float, rows: int = 4000) -> tuple[Any, Any]:
    """Logits whose labels are drawn from their own probabilities at a temperature."""
    chance = np.random.default_rng(1)
    logits = chance.normal(size=(rows, 3)).astype(np.float32) * 3
    powers = np.exp(logits / temperature)
    shares = powers / powers.sum(-1, keepdims=True)
    targets = np.array([chance.choice(3, p=row) for row in shares])
    return logits, targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_temperature_is_found_again(temperature: float) -> None:
    logits, targets = random_logits(temperature)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.1)
    found = calibrate(logits, targets)
    assert found is not None
    assert found.error_after < 0.03
    assert (found.error_before > 2 * found.error_after) == (temperature != 1.0)


def test_the_error_of_a_model_that_is_sure_and_half_right_is_one_half() -> None:
    logits = np.array([[50.0, 0.0]] * 10, np.float32)
    assert calibration_error(logits, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.5)
    assert calibrate(logits, np.zeros(10, np.int64)) is None


def test_the_temperature_that_helps_is_applied_in_serving(manifest: Manifest, tiny_artifact: Path) -> None:
    made = manifest.calibration
    assert made is not None
    helps = made.error_after < made.error_before
    assert manifest.processing.temperature == (made.temperature if helps else 1.0)
    predictor = Predictor(tiny_artifact, Settings(variant="fp32"))
    case = read_rows(tiny_artifact / "golden.jsonl")[0]
    logits = np.array(case["outputs"][0]["logits"]) / manifest.processing.temperature
    shares = np.exp(logits) / np.exp(logits).sum()
    answer = predictor.predict([case["input"]])[0]
    assert answer["label"] == LABELS[int(shares.argmax())]
    assert answer["score"] == pytest.approx(float(shares.max()), abs=1e-3)


def files_of(folder: Path) -> Iterable[tuple[str, bytes]]:
    return sorted((str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def test_exporting_twice_differs_in_what_was_measured_alone(
    tiny_checkpoint: Path, tiny_data: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    made(tiny_checkpoint, tiny_data, tmp_path / "again", "fp32", "int8", name="tiny")
    pairs = zip(files_of(tiny_artifact), files_of(tmp_path / "again"), strict=True)
    differ = {name for (name, before), (_, after) in pairs if before != after}
    assert differ <= {"manifest.json", "README.md", "pareto.png"}
    assert load_manifest(tmp_path / "again").version == load_manifest(tiny_artifact).version


def feeds_of(tiny_artifact: Path, manifest: Manifest) -> list[Any]:
    task = open_task(tiny_artifact, manifest.task, manifest.labels, manifest.processing)
    return [pad([row for rows in task.encode(TEXTS) for row in rows], manifest.processing)]


def test_fp16_keeps_what_it_cannot_hold_in_fp32(tmp_path: Path, tiny_artifact: Path, manifest: Manifest) -> None:
    """Run on the CPU, which casts to fp32 for want of kernels but stores in fp16: ranges show, speed does not."""
    graph = onnx.load(tiny_artifact / manifest.variant("fp32").files[0].path)
    feeds = feeds_of(tiny_artifact, manifest)
    assert nodes_beyond_fp16(graph, feeds) == []
    weight = next(each for each in graph.graph.initializer if each.dims == [32, 64] or each.dims == [64, 32])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1e5, weight.name))
    loud = tmp_path / "loud.onnx"
    onnx.save(graph, loud)
    kept = nodes_beyond_fp16(graph, feeds)
    assert 0 < len(kept) < len(graph.graph.node) / 2
    (tmp_path / "half").mkdir()
    assert to_fp16(loud, tmp_path / "half", feeds) == ["model.onnx"]
    fp32, fp16 = (OnnxRuntimeBackend(path).run(feeds[0])["logits"] for path in (loud, tmp_path / "half" / "model.onnx"))
    assert np.isfinite(fp16).all()
    assert np.abs(fp16 - fp32).max() < 0.05
    dtypes = {each.data_type for each in onnx.load(tmp_path / "half" / "model.onnx").graph.initializer}
    assert {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16} <= dtypes


def test_fp16_is_for_cuda_and_wants_data() -> None:
    with pytest.raises(TuneportError, match="fp16 does not run on cpu"):
        select_variants(("fp16",), "cpu")
    assert list(select_variants((), "cuda")) == ["fp32", "fp16"]
    assert list(select_variants((), "cuda", rows=0)) == ["fp32"]


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_dropped_evenly_from_every_family(family: str, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_encoder(tmp_path, family))
    config.num_hidden_layers = 6
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert prune_layers(model, 2) == [0, 2, 3, 5]
    assert model.config.num_hidden_layers == 4
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
    with pytest.raises(EngineError, match="4 of its 4 layers"):
        prune_layers(model, 4)


def test_a_pruned_model_is_taught_by_the_full_one(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings = {"prune_layers": 1, "max_drop": 1, "mixed_precision_minutes": 0}
    parities = []
    for steps in (0, 120):
        out = tmp_path / str(steps)
        manifest = made(tiny_checkpoint, tiny_data, out, "pruned", distill_steps=steps, **settings)
        every = (*manifest.variants, *manifest.rejected)
        parities.append(next(each.parity for each in every if each.name == "pruned" and each.parity))
    assert parities[1].agreement > parities[0].agreement
    assert parities[1].golden_cases == parities[0].golden_cases
