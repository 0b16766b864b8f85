"""The export as a whole: what an artifact holds, and what leaves none."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort
import pytest
from kit import ROOT
from kit.command import tuneport
from kit.data import write_rows
from kit.exports import export_variants, shift
from kit.reference import TorchReference

from tuneport.errors import DataError, EngineError, GateError, TuneportError
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.verify import verify
from tuneport.schema.loading import load_manifest
from tuneport.stages.export import graph as graphs
from tuneport.stages.export import pipeline
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.graph import Graph
from tuneport.stages.export.passes.context import BuildContext
from tuneport.stages.export.pipeline import export
from tuneport.stages.export.source import Reference, Source
from tuneport.stages.export.variants import VARIANTS

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
quick = pytest.mark.usefixtures("_quick_exports")
converted = pytest.mark.usefixtures("_reuse_conversion")
TEXTS = ["bank", "the team won the game", "Größe 🙂"]


def both(checkpoint: Path, data: Path) -> ExportConfig:
    """Configure fp32 and int8, without a search for mixed precision."""
    return ExportConfig(checkpoint=checkpoint, data=str(data), variants=("fp32", "int8"), mixed_precision_minutes=0)


def shifted_conversion(by: float) -> Callable[[Source, Reference, Path], Graph]:
    """Return a conversion to an fp32 graph that is off by a constant."""
    convert = pipeline.convert

    def convert_and_shift(source: Source, reference: Reference, folder: Path) -> Graph:
        graph = convert(source, reference, folder)
        context = BuildContext(graph, (), "minmax", smoothquant=False, model_type="bert", num_heads=2, hidden_size=32)
        return shift(by)(graph, context, graph.folder)

    return convert_and_shift


@converted
@pytest.mark.parametrize("by", [0.002, -50.0, float("nan"), float("inf")])
def test_an_fp32_graph_that_is_off_leaves_no_artifact(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    monkeypatch.setattr(pipeline, "convert", shifted_conversion(by))
    with pytest.raises(GateError, match="fp32 does not answer as torch does"):
        export(both(tiny_checkpoint, tiny_data), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@converted
def test_the_command_exits_with_1_and_keeps_the_old_artifact(
    tiny_checkpoint: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "convert", shifted_conversion(0.01))
    before = load_manifest(artifact)
    answer = tuneport("export", tiny_checkpoint, "--out", artifact, "--overwrite")
    assert answer.code == 1
    assert "max |Δ| 0.01 > 0.001" in answer.err.splitlines()[-1]
    assert load_manifest(artifact) == before


@quick
@converted
def test_a_variant_that_fails_is_left_out_with_its_reason(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "int8", replace(VARIANTS["int8"], passes={"encoder": (shift(1000.0),)}))
    export(both(tiny_checkpoint, tiny_data), tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    assert [variant.name for variant in manifest.variants] == ["fp32"]
    assert manifest.default_variant == "fp32"
    assert manifest.rejected[0].name == "int8"
    assert "agreement" in manifest.rejected[0].reason
    assert not (tmp_path / "out" / "onnx" / "int8").exists()
    assert manifest.rejected[0].reason in (tmp_path / "out" / "README.md").read_text()


@converted
def test_a_disk_that_fills_while_quantizing_leaves_no_artifact(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(graph: Graph, context: BuildContext, folder: Path) -> Graph:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(VARIANTS, "int8", replace(VARIANTS["int8"], passes={"encoder": (fill_the_disk,)}))
    with pytest.raises(TuneportError, match="no space left"):
        export(both(tiny_checkpoint, tiny_data), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@quick
def test_without_data_int8_is_rejected_and_fp32_goes_in(tiny_checkpoint: Path, tmp_path: Path) -> None:
    answer = tuneport("export", tiny_checkpoint, "--out", tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    assert answer.code == 0
    assert "not in the artifact: int8: no data to judge it by" in answer.out
    assert all(variant.execution.precision == "fp32" for variant in manifest.variants)
    assert manifest.provenance.data is None
    assert "fp32" in [name for name, *_ in verify(tmp_path / "out")]


def test_int8_that_is_asked_for_without_data_is_refused_before_any_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    answer = tuneport("export", tiny_checkpoint, "--out", tmp_path / "out", "--variants", "int8")
    assert answer.code == 1
    assert "error: int8 gives up precision and is judged on data, and there is none; give some" in answer.err
    assert not (tmp_path / "out").exists()


@quick
def test_blank_validation_texts_can_be_judged(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        write_rows(tmp_path / "data" / f"{split}.jsonl", [{"text": " ", "label": "calm"}] * 12)
    manifest = export_variants(tiny_checkpoint, tmp_path / "data", tmp_path / "out", "fp32")
    assert manifest.variant("fp32").evidence.parity.texts == 12


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"text": "a", "label": "angry"}], "row 1: label 'angry' is not one of the model's .*calm.*loud.*odd"),
        ([{"txt": "a", "label": "calm"}], "no column .*text"),
        ([{"text": 7, "label": "calm"}], "row 1: text is not a string"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, rows: list[dict[str, object]], problem: str
) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        write_rows(tmp_path / "data" / f"{split}.jsonl", rows * 10)
    with pytest.raises(DataError, match=problem):
        export(ExportConfig(checkpoint=tiny_checkpoint, data=str(tmp_path / "data")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_a_device_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    config = ExportConfig(checkpoint=tmp_path / "nowhere", device="cuda")
    with pytest.raises(EngineError, match=r"this onnxruntime has no .*; install tuneport\[gpu\]"):
        export(config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@needs_openvino
@quick
@converted
def test_openvino_serves_the_same_file_and_an_int8_one_of_its_own(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifest = export_variants(tiny_checkpoint, tiny_data, out, "openvino", "openvino-int8", max_drop=1)
    assert manifest.variant("openvino").execution.files == manifest.variant("fp32").execution.files
    labels = [each["label"] for each in Predictor(out, "openvino").predict(TEXTS)]
    assert labels == TorchReference(tiny_checkpoint).labels(TEXTS)
    assert [file.path for file in manifest.variant("openvino-int8").execution.files] == [
        "onnx/openvino-int8/model.xml", "onnx/openvino-int8/model.bin",
    ]  # fmt: skip
    assert {name for name, *_ in verify(out)} == {"fp32", "openvino", "openvino-int8"}


@quick
def test_weights_beyond_one_file_go_to_a_second(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "LARGEST_IN_ONE_FILE", 10_000)
    variants = ["int8", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    manifest = export_variants(tiny_checkpoint, tiny_data, tmp_path / "out", *variants)
    fp32 = [file.path for file in manifest.variant("fp32").execution.files]
    assert fp32 == ["onnx/fp32/model.onnx", "onnx/fp32/model.onnx_data"]
    assert (tmp_path / "out" / fp32[0]).stat().st_size < (tmp_path / "out" / fp32[1]).stat().st_size
    assert {name for name, *_ in verify(tmp_path / "out")} == {"fp32", *variants}
    (tmp_path / "out" / fp32[1]).write_bytes(b"")
    assert tuneport("verify", tmp_path / "out").code == 1


def files_of(folder: Path) -> Iterable[tuple[str, bytes]]:
    return sorted((str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*") if path.is_file())


@quick
def test_exporting_twice_differs_only_in_measurements(
    tiny_checkpoint: Path, tiny_data: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    export_variants(tiny_checkpoint, tiny_data, tmp_path / "again", "fp32", "int8", name="tiny")
    pairs = zip(files_of(tiny_artifact), files_of(tmp_path / "again"), strict=True)
    differ = {name for (name, before), (_, after) in pairs if before != after}
    assert differ <= {"manifest.json", "README.md", "pareto.png"}
    assert load_manifest(tmp_path / "again").version == load_manifest(tiny_artifact).version


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
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
