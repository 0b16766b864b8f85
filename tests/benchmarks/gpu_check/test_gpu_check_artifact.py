"""What the GPU check finds in an artifact: variants that are missing, and nodes that run on another device."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from kit.artifacts import reseal

from tuneport.stages.benchmarks.gpu_check.models import LABELS, random_bert
from tuneport.stages.benchmarks.gpu_check.placement import count_nodes, fallbacks, placement, summarize
from tuneport.stages.benchmarks.gpu_check.variants import ABSENT, check_variants
from tuneport.stages.benchmarks.gpu_check.variants import main as variants_main


def test_a_variant_that_was_rejected_or_is_absent_fails_the_check(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    reseal(folder, {"rejected": [{"name": "fp16", "reason": "agreement 80 %", "parity": None, "metric": None}]})
    assert check_variants(folder, ("fp32", "int8"))["missing"] == {}
    found = check_variants(folder, ("fp16", "fp16-packed"))
    assert found["missing"] == {"fp16": "agreement 80 %", "fp16-packed": ABSENT}
    result = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["variants", str(folder), "cuda", "fp16,int8", str(result)])
    with pytest.raises(SystemExit, match=r"^fp16 was rejected: agreement 80 %$"):
        variants_main()
    assert json.loads(result.read_text())["missing"] == {"fp16": "agreement 80 %"}


def event(provider: str, operator: str, name: str) -> dict[str, Any]:
    return {"cat": "Node", "name": name, "args": {"provider": provider, "op_name": operator}}


def test_work_on_the_cpu_is_a_fallback_and_shapes_are_none() -> None:
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    events = [
        event(cuda, "MatMul", "a"), event(cuda, "MatMul", "b"), event(cuda, "MatMul", "b"), event(cpu, "Shape", "c"),
        {"cat": "Session", "name": "model_run"}, event(cpu, "Gather", "d"),
    ]  # fmt: skip
    fp32 = count_nodes(events)
    assert fp32 == {cuda: {"MatMul": 2}, cpu: {"Shape": 1, "Gather": 1}}
    packed = count_nodes([event(cpu, "PackedMultiHeadAttention", "e"), event(cpu, "SkipLayerNormalization", "f")])
    copied = count_nodes([*events, event(cuda, "MemcpyToHost", "m"), event(cuda, "MemcpyFromHost", "n")])
    assert summarize({"fp32": copied}) == {"fp32": {"nodes": 6, "on_cpu": 2, "copies": 2}}
    assert fallbacks({"fp32": copied}) == {}  # reported, and no failure
    assert fallbacks({"fp32": fp32, "packed": packed, "silent": {}}) == {
        "packed": ["PackedMultiHeadAttention", "SkipLayerNormalization"], "silent": ["no profile was written"],
    }  # fmt: skip


def test_onnxruntime_s_profile_has_the_provider_of_every_node(tiny_artifact: Path) -> None:
    found = placement(tiny_artifact, "cpu")
    assert found.keys() == {"fp32", "int8"}
    assert found["fp32"].keys() == {"CPUExecutionProvider"}
    assert any("MatMul" in operator or "Gemm" in operator for operator in found["fp32"]["CPUExecutionProvider"])
    assert fallbacks(found).keys() == {"fp32", "int8"}  # which is why the step asks on a GPU alone


def test_a_random_bert_is_sure_of_its_labels(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    random_bert(tiny_checkpoint, tiny_data, tmp_path / "out", layers=2, hidden_size=64)
    rows = [json.loads(line) for line in (tmp_path / "out" / "data" / "validation.jsonl").open()]
    assert len(rows) > 30
    assert {row["label"] for row in rows} == set(LABELS)
