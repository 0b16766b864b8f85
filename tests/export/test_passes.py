"""The passes over the fp32 graph: what each changes in it, and what it leaves."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from kit import ROOT
from kit.encoders import FAMILIES, tiny_encoder
from kit.exports import Prepared, predict
from kit.reference import TorchReference
from onnx import numpy_helper
from transformers import AutoConfig, AutoModelForSequenceClassification

from tuneport.errors import EngineError, TuneportError
from tuneport.schema.artifact import Rejected
from tuneport.stages.export.applicable import select_variants
from tuneport.stages.export.build import Passed, VariantBuilder
from tuneport.stages.export.passes.context import BuildContext
from tuneport.stages.export.passes.distill import prune_layers
from tuneport.stages.export.passes.fp16 import fp16, nodes_beyond_fp16
from tuneport.stages.export.passes.int8 import int8_dynamic, int8_static
from tuneport.stages.export.passes.nncf import split_batches
from tuneport.stages.export.passes.smoothquant import smoothquant
from tuneport.stages.export.variants import VARIANTS

TEXTS = ["bank", "the team won the game", "Größe 🙂"]
Feeds = Sequence[Mapping[str, Any]]


def build(builder: VariantBuilder, name: str) -> Passed:
    outcome = builder.build_and_validate(name, VARIANTS[name])
    assert isinstance(outcome, Passed), outcome
    return outcome


def agreement(builder: VariantBuilder, name: str) -> float:
    """Build a variant and return its agreement with torch, whether it passes or not."""
    outcome = builder.build_and_validate(name, VARIANTS[name])
    assert outcome.parity is not None
    return outcome.parity.agreement


def graph_of(builder: VariantBuilder, passed: Passed) -> onnx.ModelProto:
    return onnx.load(builder.folder / passed.candidate.execution.files[0].path)


def op_types(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def context_of(prepared: Prepared, folder: Path, **changes: Any) -> BuildContext:
    return replace(prepared.builder(folder).context, **changes)


def run(path: Path, feeds: Mapping[str, Any]) -> Any:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {each.name: feeds[each.name] for each in session.get_inputs()})[0]


def test_the_fused_graph_has_fused_operators_and_the_same_predictions(
    prepared: Prepared, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    builder = prepared.builder(tmp_path)
    fused = build(builder, "fused")
    assert fused.parity.max_abs_diff <= 1e-3
    assert {"Attention", "SkipLayerNormalization"} <= op_types(graph_of(builder, fused))
    predictions = predict(builder.runtime_task, builder.open(fused.candidate.execution), TEXTS)
    assert [each["label"] for each in predictions] == TorchReference(tiny_checkpoint).labels(TEXTS)


def activation_scales(model: onnx.ModelProto) -> dict[str, float]:
    """Return the scale of each quantized activation of a QDQ graph."""
    initializers = {each.name: each for each in model.graph.initializer}
    return {
        node.input[0]: float(numpy_helper.to_array(initializers[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in initializers
    }


def minmax_scales(fp32: Path, names: Sequence[str], batches: Feeds) -> dict[str, float]:
    """Compute the scales of 8 bits over the range of each activation on calibration batches."""
    model = onnx.load(fp32)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    taken = [each.name for each in session.get_inputs()]
    values = [session.run(list(names), {name: batch[name] for name in taken}) for batch in batches]
    ranges = zip(*values, strict=True)
    return {
        name: (max(0.0, *(array.max() for array in arrays)) - min(0.0, *(array.min() for array in arrays))) / 255
        for name, arrays in zip(names, ranges, strict=True)
    }


@pytest.fixture(scope="module")
def static_scales(
    prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[float, dict[str, float], BuildContext]]:
    """Calibration method → agreement with torch, scales of activations, and what the variant was built from."""
    results = {}
    for method in ("minmax", "entropy", "percentile"):
        folder = tmp_path_factory.mktemp(method)
        builder = prepared.builder(folder, calibration=method, calibration_rows=40, max_drop=1)
        int8 = build(builder, "int8-static")
        results[method] = (int8.parity.agreement, activation_scales(graph_of(builder, int8)), builder.context)
    return results


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_static_int8_is_calibrated_by_every_method(static_scales: dict[str, Any], method: str) -> None:
    agreement, scales, _ = static_scales[method]
    assert agreement > 0.9
    assert len(scales) > 5


def test_minmax_scales_are_the_ranges_of_the_calibration_data(static_scales: dict[str, Any]) -> None:
    _, scales, context = static_scales["minmax"]
    assert scales == pytest.approx(minmax_scales(context.fp32.path, list(scales), context.calibration_batches))


def test_entropy_and_percentile_clip_ranges_each_in_its_own_way(static_scales: dict[str, Any]) -> None:
    shares = {}
    for method in ("entropy", "percentile"):
        _, scales, context = static_scales[method]
        full = minmax_scales(context.fp32.path, list(scales), context.calibration_batches)
        shares[method] = {name: scales[name] / full[name] for name in scales}
        assert max(shares[method].values()) < 1.001
        assert min(shares[method].values()) < 0.96
    assert shares["entropy"] != pytest.approx(shares["percentile"], rel=1e-2)


@pytest.mark.parametrize("quantize", [int8_dynamic, int8_static])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_a_reduced_range_shows_in_the_weights(
    prepared: Prepared, tmp_path: Path, quantize: Any, reduce_range: bool
) -> None:
    context = context_of(prepared, tmp_path / "export", reduce_range=reduce_range)
    (tmp_path / "int8").mkdir()
    graph = quantize(context.fp32, context, tmp_path / "int8")
    weights = [
        numpy_helper.to_array(each).astype(int)
        for each in onnx.load(graph.path).graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 2
    ]
    assert weights
    assert (max(np.abs(each).max() for each in weights) <= 64) == reduce_range


def test_a_quantized_variant_that_fails_keeps_the_parts_it_needs_in_fp32(
    prepared_outlier: Prepared, tmp_path: Path
) -> None:
    at_once = prepared_outlier.builder(tmp_path / "at_once").build_and_validate("int8", VARIANTS["int8"])
    assert isinstance(at_once, Rejected)
    assert not (tmp_path / "at_once" / "onnx" / "int8").exists()
    builder = prepared_outlier.builder(tmp_path / "out", mixed_precision_minutes=3)
    int8 = build(builder, "int8")
    assert int8.parity.agreement >= 0.99
    assert any("layer.1/output" in part for part in int8.fp32_parts)
    assert len(int8.fp32_parts) <= 3
    assert "MatMulInteger" in op_types(graph_of(builder, int8))


@pytest.mark.parametrize("quantize", [int8_dynamic, int8_static])
def test_a_graph_that_stays_in_fp32_as_a_whole_is_no_int8(prepared: Prepared, tmp_path: Path, quantize: Any) -> None:
    context = context_of(prepared, tmp_path)
    nodes = [node.name for node in onnx.load(context.fp32.path).graph.node]
    nodes += [f"{name}_MatMul" for name in nodes]  # of what dynamic quantization makes of a Gemm
    (tmp_path / "int8").mkdir()
    with pytest.raises(EngineError, match="nothing of it is quantized"):
        quantize(context.fp32, replace(context, excluded_nodes=tuple(nodes)), tmp_path / "int8")


def test_smoothing_tames_an_outlier(prepared_outlier: Prepared, tmp_path: Path) -> None:
    gaps = []
    for smooth_quant in (False, True):
        builder = prepared_outlier.builder(tmp_path / str(smooth_quant), smooth_quant=smooth_quant, max_drop=1)
        gaps.append(1 - agreement(builder, "int8-static"))
    assert gaps[1] < 0.5 * gaps[0]


def test_smoothing_computes_the_same_function(prepared: Prepared, tmp_path: Path) -> None:
    context = context_of(prepared, tmp_path, smoothquant=True)
    smoothed = smoothquant(context.fp32, context, tmp_path)
    assert op_types(onnx.load(smoothed.path)) >= {"Mul", "MatMul"}
    assert smoothed.path != context.fp32.path
    feeds = context.calibration_batches[0]
    assert np.abs(run(context.fp32.path, feeds) - run(smoothed.path, feeds)).max() < 1e-4
    assert smoothquant(context.fp32, replace(context, smoothquant=False), tmp_path) == context.fp32


def test_fp16_keeps_what_it_cannot_hold_in_fp32(prepared: Prepared, tmp_path: Path) -> None:
    """Run on the CPU, which casts to fp32 for want of kernels but stores in fp16: ranges show, speed does not."""
    context = context_of(prepared, tmp_path)
    model = onnx.load(context.fp32.path)
    assert nodes_beyond_fp16(model, context.calibration_batches) == []
    weight = next(each for each in model.graph.initializer if each.dims == [32, 64] or each.dims == [64, 32])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1e5, weight.name))
    onnx.save(model, context.fp32.path)
    excluded = nodes_beyond_fp16(model, context.calibration_batches)
    assert 0 < len(excluded) < len(model.graph.node) / 2
    (tmp_path / "fp16").mkdir()
    converted = fp16(context.fp32, context, tmp_path / "fp16")
    assert converted.files == ("model.onnx",)
    feeds = context.calibration_batches[0]
    logits = run(converted.path, feeds)
    assert np.isfinite(logits).all()
    assert np.abs(logits - run(context.fp32.path, feeds)).max() < 0.05
    dtypes = {each.data_type for each in onnx.load(converted.path).graph.initializer}
    assert {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16} <= dtypes


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_removed_evenly_from_every_family(family: str, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_encoder(tmp_path, family))
    config.num_hidden_layers = 6
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert prune_layers(model, 2) == [0, 2, 3, 5]
    assert model.config.num_hidden_layers == 4
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
    with pytest.raises(EngineError, match="4 of its 4 layers"):
        prune_layers(model, 4)


def test_a_pruned_model_is_distilled_from_the_full_one(prepared: Prepared, tmp_path: Path) -> None:
    agreements = []
    for steps in (0, 120):
        builder = prepared.builder(tmp_path / str(steps), prune_layers=1, distill_steps=steps, max_drop=1)
        agreements.append(agreement(builder, "pruned"))
    assert agreements[1] > agreements[0]


def test_a_pruned_model_is_quantized_too(prepared: Prepared, tmp_path: Path) -> None:
    builder = prepared.builder(tmp_path, prune_layers=1, distill_steps=120, max_drop=1)
    spec = replace(VARIANTS["pruned-int8"], min_agreement=0.5)
    passed = builder.build_and_validate("pruned-int8", spec)
    assert isinstance(passed, Passed)
    assert passed.candidate.execution.precision == "int8"
    graph = onnx.load(tmp_path / passed.candidate.execution.files[0].path)
    names = {node.name for node in graph.graph.node} | {each.name for each in graph.graph.initializer}
    assert any("layer.0" in name for name in names)
    assert not any("layer.1" in name for name in names)
    assert onnx.TensorProto.INT8 in {each.data_type for each in graph.graph.initializer}


def test_a_pruned_model_in_int8_is_for_cpus_alone() -> None:
    with pytest.raises(TuneportError, match="pruned-int8 does not run on cuda"):
        select_variants(("pruned-int8",), "cuda")


@pytest.mark.skipif("not __import__('importlib').util.find_spec('openvino')", reason="OpenVINO is not installed")
def test_backends_that_were_closed_leave_signals_alone(prepared: Prepared) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from tuneport.runtime.backends.openvino import OpenVinoBackend
first, second = (OpenVinoBackend(Path(sys.argv[1]), precision="fp32") for _ in range(2))
del first
del second
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""
    command = [sys.executable, "-c", program, str(prepared.graph.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "handled\n")


@pytest.mark.skipif("not __import__('importlib').util.find_spec('openvino')", reason="OpenVINO is not installed")
def test_processes_that_share_a_machine_do_not_pin_their_threads_to_the_same_cores(prepared: Prepared) -> None:
    """Two workers with a thread each had half the throughput."""
    from tuneport.runtime.backends.openvino import OpenVinoBackend

    backend = OpenVinoBackend(prepared.graph.path, precision="fp32", threads=1)
    assert backend._compiled.get_property("ENABLE_CPU_PINNING") is False


def test_batches_of_nncf_are_small_and_hold_every_row() -> None:
    ids = np.arange(5 * 50).reshape(5, 50)
    batches = [
        {"input_ids": ids, "attention_mask": ids, "other": ids},
        {"input_ids": ids[:1], "attention_mask": ids[:1]},
    ]
    parts = list(split_batches(batches, ["input_ids", "attention_mask"]))
    assert [each["input_ids"].shape for each in parts] == [(2, 50), (2, 50), (1, 50), (1, 50)]
    assert set(parts[0]) == {"input_ids", "attention_mask"}
    assert np.array_equal(np.concatenate([each["input_ids"] for each in parts[:3]]), ids)
    assert [each["input_ids"].shape for each in split_batches([{"input_ids": np.zeros((2, 300))}], ["input_ids"])] == [
        (1, 300)
    ] * 2
