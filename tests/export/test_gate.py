"""The export's gate: what passes, what is rejected, and what leaves no artifact."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import ROOT, build_checkpoint, read_rows, tuneport, write_rows
from transformers import BertForMaskedLM, BertForSequenceClassification

from tuneport.data.sample import Sample
from tuneport.errors import CheckpointError, DataError, GateError, TuneportError
from tuneport.runtime.batch import RowOutputs
from tuneport.runtime.loading import open_task
from tuneport.runtime.verify import verify
from tuneport.schema.artifact import GoldenCase, Manifest, Metric, Parity
from tuneport.schema.loading import load_manifest
from tuneport.stages.export import pipeline
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.gate import EXACT, Evidence, Gate, Thresholds, check_thresholds
from tuneport.stages.export.pareto import pareto_front
from tuneport.stages.export.pipeline import ExportConfig, export
from tuneport.stages.export.select import Objective, select_default
from tuneport.stages.export.tasks.text_classification import Task
from tuneport.stages.export.variants import VARIANTS, BuildContext, select_variants

FP32 = VARIANTS["fp32"].rule(0.01)
INT8 = VARIANTS["int8"].rule(0.01)


def both(checkpoint: Path, data: Path) -> ExportConfig:
    """fp32 and int8, the latter without a second chance."""
    return ExportConfig(checkpoint=checkpoint, data=str(data), variants=("fp32", "int8"), mixed_precision_minutes=0)


def shift_logits(file: Path, by: float) -> None:
    """Add to the first label's logit, in the graph."""
    model = onnx.load(file)
    bias = next(each for each in model.graph.initializer if each.name == "classifier.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += by
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, file)


def to_shifted_onnx(by: float) -> Callable[[object, object, Path], list[str]]:
    real = pipeline.to_onnx

    def build(model: object, checkpoint: object, folder: Path) -> list[str]:
        names = real(model, checkpoint, folder)  # type: ignore[arg-type]
        shift_logits(folder / names[0], by)
        return names

    return build


def copy_shifted(by: float) -> Callable[[BuildContext, Path], list[str]]:
    def build(material: BuildContext, folder: Path) -> list[str]:
        shutil.copyfile(material.fp32, folder / "model.onnx")
        shift_logits(folder / "model.onnx", by)
        return ["model.onnx"]

    return build


def evidence(*, difference: float = 0.0, agreement: float = 1.0, value: float = 0.9, torch: float = 0.9) -> Evidence:
    parity = Parity(golden_cases=1, texts=1, max_abs_diff=difference, golden_max_abs_diff=0.0, agreement=agreement)
    return Evidence(parity, Metric(name="accuracy", value=value, torch=torch))


def test_both_variants_of_a_sound_model_pass_with_their_evidence(manifest: Manifest) -> None:
    fp32, int8 = manifest.variant("fp32"), manifest.variant("int8")
    assert fp32.parity.max_abs_diff <= 1e-3
    assert fp32.parity.agreement == 1.0
    assert int8.parity.agreement >= 0.99
    assert fp32.parity.max_abs_diff < int8.parity.max_abs_diff
    assert fp32.metric is not None
    assert fp32.metric.torch == pytest.approx(0.9)  # every tenth label is wrong on purpose
    assert not manifest.rejected


def test_golden_cases_cover_what_breaks_models(tiny_artifact: Path) -> None:
    cases = read_rows(tiny_artifact / "golden.jsonl")
    texts = [case["input"] for case in cases]
    assert {"one-word", "mixed", "full-length", "too-long", "awkward"} == {case["batch"] for case in cases}
    assert "" in texts
    assert any(not text.isascii() for text in texts)
    assert len({len(case["input"]) for case in cases if case["batch"] == "mixed"}) > 3
    assert all(len(window["logits"]) == 3 for case in cases for window in case["outputs"])


@pytest.mark.parametrize("by", [0.002, -50.0, float("nan"), float("inf")])
def test_an_fp32_graph_that_is_off_leaves_no_artifact(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    monkeypatch.setattr(pipeline, "to_onnx", to_shifted_onnx(by))
    with pytest.raises(GateError, match="fp32 does not answer as torch does"):
        export(both(tiny_checkpoint, tiny_data), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_exits_with_1_and_keeps_the_old_artifact(
    tiny_checkpoint: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "to_onnx", to_shifted_onnx(0.01))
    before = load_manifest(artifact)
    answer = tuneport("export", tiny_checkpoint, "--out", artifact, "--overwrite")
    assert answer.code == 1
    assert "max |Δ| 0.01 > 0.001" in answer.err.splitlines()[-1]
    assert load_manifest(artifact) == before


@pytest.mark.parametrize(
    ("by", "reason"), [(1000.0, "agreement"), (float("nan"), "not finite"), (1000.0, "accuracy falls by")]
)
def test_an_int8_graph_that_loses_labels_is_left_out_with_its_reason(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float, reason: str
) -> None:
    monkeypatch.setitem(VARIANTS, "int8", replace(VARIANTS["int8"], build=copy_shifted(by)))
    export(both(tiny_checkpoint, tiny_data), tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    assert [variant.name for variant in manifest.variants] == ["fp32"]
    assert manifest.default_variant == "fp32"
    assert manifest.rejected[0].name == "int8"
    assert reason in manifest.rejected[0].reason
    assert not (tmp_path / "out" / "onnx" / "int8").exists()
    assert reason in (tmp_path / "out" / "README.md").read_text()


def test_an_int8_graph_that_cannot_be_built_is_left_out_with_its_reason(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(material: BuildContext, folder: Path) -> list[str]:
        raise ValueError("Unable to find data type for weight")

    monkeypatch.setitem(VARIANTS, "int8", replace(VARIANTS["int8"], build=fail))
    manifest = export(both(tiny_checkpoint, tiny_data), tmp_path / "out")
    assert "Unable to find data type" in manifest.rejected[0].reason
    assert not (tmp_path / "out" / "onnx" / "int8").exists()


def write_no_graph(material: BuildContext, folder: Path) -> list[str]:
    (folder / "model.onnx").write_bytes(b"no graph")
    return ["model.onnx"]


def test_an_int8_graph_that_does_not_load_is_left_out_with_its_reason(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "int8", replace(VARIANTS["int8"], build=write_no_graph))
    manifest = export(both(tiny_checkpoint, tiny_data), tmp_path / "out")
    assert "cannot load" in manifest.rejected[0].reason


def test_a_disk_that_fills_while_quantizing_is_no_verdict_on_int8(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(material: BuildContext, folder: Path) -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(VARIANTS, "int8", replace(VARIANTS["int8"], build=fill_the_disk))
    with pytest.raises(TuneportError, match="no space left"):
        export(both(tiny_checkpoint, tiny_data), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_data_int8_is_rejected_and_fp32_goes_in(tiny_checkpoint: Path, tmp_path: Path) -> None:
    answer = tuneport("export", tiny_checkpoint, "--out", tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    assert answer.code == 0
    assert "not in the artifact: int8: no labelled data" in answer.out
    assert all(variant.precision == "fp32" for variant in manifest.variants)
    assert manifest.provenance.data is None
    assert "fp32" in [name for name, *_ in verify(tmp_path / "out")]


def test_int8_that_is_asked_for_without_data_is_refused_before_any_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    answer = tuneport("export", tiny_checkpoint, "--out", tmp_path / "out", "--variants", "int8")
    assert answer.code == 1
    assert "error: int8 gives up precision and is judged on labelled data, and there is none; give some" in answer.err
    assert not (tmp_path / "out").exists()


def test_blank_validation_texts_can_be_judged(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        write_rows(tmp_path / "data" / f"{split}.jsonl", [{"text": " ", "label": "calm"}] * 12)
    config = ExportConfig(checkpoint=tiny_checkpoint, data=str(tmp_path / "data"), variants=("fp32",))
    assert export(config, tmp_path / "out").variant("fp32").parity.texts == 12


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (FP32, {"difference": 1e-3}, {"difference": 1.001e-3}),
        (FP32, {"agreement": 1.0}, {"agreement": 0.9999}),
        (INT8, {"agreement": 0.99}, {"agreement": 0.9899}),
        (INT8, {"value": 0.89, "torch": 0.90}, {"value": 0.8899, "torch": 0.90}),
        (INT8, {"value": 0.95, "torch": 0.90}, {"value": 0.0, "torch": 0.90}),
        (INT8, {"difference": 9.0}, {"difference": float("nan")}),
        (INT8, {"difference": 9.0}, {"difference": float("inf")}),
        (FP32, {}, {"difference": float("nan")}),
        (FP32, {}, {"agreement": float("nan")}),
        (Thresholds(None, 0.0, 0.0), {"value": 0.9}, {"value": 0.8999}),
    ],
)
def test_a_limit_that_is_met_exactly_passes_and_the_next_value_fails(
    rule: Thresholds, good: dict[str, float], bad: dict[str, float]
) -> None:
    check_thresholds(evidence(**good), rule)
    with pytest.raises(GateError):
        check_thresholds(evidence(**bad), rule)


def test_a_verdict_names_every_figure_that_breaks_the_rule() -> None:
    with pytest.raises(GateError) as caught:
        check_thresholds(evidence(difference=2.0, agreement=0.5, value=0.1), FP32)
    assert caught.value.problem.count(",") == 2


def logits(*rows: tuple[float, ...]) -> list[list[RowOutputs]]:
    return [[{"logits": np.array(row, np.float32)}] for row in rows]


@pytest.fixture
def gate(tiny_checkpoint: Path, tiny_artifact: Path, manifest: Manifest) -> Gate:
    """Torch says calm, loud to two golden cases and two texts, of which both are calm in truth."""
    serving = open_task(tiny_artifact, manifest.task, manifest.labels, manifest.processing)
    cases = [
        GoldenCase(batch="b", input="a", outputs=({"logits": list(row)},)) for row in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    ]
    sample = Sample(["a", "b"], [[0], [0]], None, "validation")
    return Gate(Task(open_checkpoint(tiny_checkpoint)), serving, cases, sample, logits((1, 0, 0), (0, 1, 0)))


def test_the_gate_measures_golden_cases_and_texts_together(gate: Gate) -> None:
    found = gate.compare(logits((1, 0.5, 0), (0, 1, 0)), logits((1, 3, 0), (0, 1, 0)))
    assert found.parity == Parity(golden_cases=2, texts=2, max_abs_diff=3.0, golden_max_abs_diff=0.5, agreement=0.75)
    assert found.metric == Metric(name="accuracy", value=0.0, torch=0.5)


@pytest.mark.parametrize("texts", [logits((1, 0), (0, 1, 0)), logits((float("nan"), 0, 0), (0, 1, 0)), [[], []]])
def test_outputs_of_another_shape_or_not_finite_agree_with_nothing(gate: Gate, texts: list[list[RowOutputs]]) -> None:
    found = gate.compare(logits((1, 0, 0), (0, 1, 0)), texts)
    assert found.parity.max_abs_diff == float("inf")
    assert found.parity.agreement < 1
    assert found.metric is None
    with pytest.raises(GateError, match="not finite or not of torch's shape"):
        check_thresholds(found, Thresholds(None, 0.0, 1.0))


@pytest.mark.parametrize(("objective", "best"), [("throughput", "a"), ("latency", "b"), ("size", "c")])
def test_the_objective_chooses_the_default(manifest: Manifest, objective: Objective, best: str) -> None:
    variant = manifest.variants[0]
    assert variant.timing is not None
    figures = {"a": (30.0, 9.0, 20), "b": (20.0, 7.0, 30), "c": (10.0, 8.0, 10)}
    variants = []
    for name, (speed, p50, size) in figures.items():
        timing = variant.timing.model_copy(update={"texts_per_s": speed, "latency_ms_p50": p50})
        files = (variant.files[0].model_copy(update={"size_bytes": size}),)
        variants.append(variant.model_copy(update={"name": name, "timing": timing, "files": files}))
    name, because = select_default(variants, objective)
    assert name == best
    assert all(f"{each.name} " in because for each in variants)


def test_the_frontier_is_what_no_other_beats_in_everything(manifest: Manifest) -> None:
    variant = manifest.variants[0]
    assert variant.timing is not None
    variants = []
    for name, (speed, p50) in {"fast": (30.0, 9.0), "quick": (20.0, 7.0), "beaten": (20.0, 9.0)}.items():
        timing = variant.timing.model_copy(update={"texts_per_s": speed, "latency_ms_p50": p50})
        variants.append(variant.model_copy(update={"name": name, "timing": timing}))
    assert pareto_front(tuple(variants)) == {"fast", "quick"}


def test_recipes_have_fp32_first_and_always() -> None:
    assert list(select_variants((), "cpu"))[:2] == ["fp32", "int8"]
    assert list(select_variants(("int8",), "cpu")) == ["fp32", "int8"]
    assert list(select_variants((), "cuda")) == ["fp32", "fp16"]
    assert EXACT == 1e-3


@pytest.mark.parametrize(
    ("variants", "device", "problem"),
    [(("int8",), "cuda", "int8 does not run on cuda"), (("fp32", "int3"), "cpu", "int3")],
)
def test_variants_that_cannot_be_are_refused_before_any_work(
    tmp_path: Path, variants: tuple[str, ...], device: str, problem: str
) -> None:
    config = ExportConfig.model_validate({"checkpoint": tmp_path / "nowhere", "variants": variants, "device": device})
    with pytest.raises(TuneportError, match=problem):
        export(config, tmp_path / "out")


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def remove_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()


def make_a_pickle_of_it(folder: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, safe_serialization=False)


def cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove_tokenizer, "has no tokenizer.*save_pretrained"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (make_a_pickle_of_it, "only pytorch_model.bin, which can run code when loaded.*safe_serialization"),
        (cut_weights, "cannot be loaded"),
        (lambda folder: build_checkpoint(folder, architecture=BertForMaskedLM), "BertForMaskedLM.*has no task"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=says) as caught:
        export(ExportConfig(checkpoint=checkpoint, variants=("fp32",)), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_head_that_does_not_fit_the_task_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    build_checkpoint(checkpoint, labels=("only",))
    assert open_checkpoint(checkpoint).task == "regression"
    config = ExportConfig(checkpoint=checkpoint, task="text-classification", variants=("fp32",))
    with pytest.raises(CheckpointError, match=r"1 label\(s\).*--task regression"):
        export(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_tokens_than_the_model_has_positions_are_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="at most 64 tokens"):
        open_checkpoint(checkpoint, max_length=65)
    assert open_checkpoint(checkpoint, max_length=64).max_length == 64
    assert open_checkpoint(checkpoint).max_length == 64


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        open_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "a", "label": "angry"}], "row 1: label 'angry' is not one of the model's .*calm.*loud.*odd"),
        ([{"txt": "a", "label": "calm"}], "no column .*text"),
        ([{"text": 7, "label": "calm"}], "row 1: text is not a string"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, rows: list[dict[str, object]], says: str
) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        write_rows(tmp_path / "data" / f"{split}.jsonl", rows * 10)
    with pytest.raises(DataError, match=says):
        export(ExportConfig(checkpoint=tiny_checkpoint, data=str(tmp_path / "data")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_export_leaves_nothing_behind(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "tuneport", "export", tiny_checkpoint, "--data", tiny_data, "--out", out],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    partial = tmp_path / f".out.partial-{process.pid}"
    while process.poll() is None and not (partial / "onnx").exists():
        time.sleep(0.01)
    os.kill(process.pid, sent)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
