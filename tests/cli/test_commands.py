"""The commands on a tiny artifact: what they print, write and refuse."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.artifacts import alter_golden, change_byte, of_devices
from kit.command import assert_one_line, tuneport, without_progress
from kit.data import read_rows, write_rows
from kit.encoders import LABELS, build_checkpoint
from kit.nvml import FakeGpu, FakeNvml
from rich.console import Console

from tuneport.folders import sha256
from tuneport.gpu import VISIBLE
from tuneport.runtime import availability
from tuneport.schema.loading import load_manifest
from tuneport.stages.benchmarks import torch_footprint


def test_verify_names_every_variant_of_a_sound_artifact(tiny_artifact: Path) -> None:
    answer = tuneport("verify", tiny_artifact)
    assert answer.code == 0
    assert [line.partition(":")[0] for line in answer.out.splitlines()] == ["not signed", "fp32", "int8"]


def test_an_artifact_for_several_devices_says_what_runs_here(artifact: Path) -> None:
    fp16 = ("fp16", {"device": "cuda", "precision": "fp16"})
    of_devices(load_manifest(artifact), ("fp32", {}), fp16).save(artifact)
    reason = "fp16 needs CUDAExecutionProvider, which this onnxruntime lacks"
    shown = tuneport("inspect", artifact)
    assert "run here: fp32\n" in shown.out
    assert f"does not run here: {reason}" in shown.out
    verified = tuneport("verify", artifact)
    assert verified.code == 0
    assert [line.partition(":")[0] for line in verified.out.splitlines()] == ["not signed", "fp32", "fp16"]
    assert "golden cases not run, because it needs CUDAExecutionProvider" in verified.out


def test_a_variant_that_leaves_gpus_out_says_so(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = ("bf16", {"device": "cuda", "precision": "bf16", "min_compute_capability": "8.0"})
    of_devices(load_manifest(artifact), variant, ("fp32", {})).save(artifact)
    old = FakeGpu("GPU-old", name="T4", capability=(7, 5))
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(old, FakeGpu("GPU-new")))
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(availability, "_providers", lambda: ("CUDAExecutionProvider",))
    lines = tuneport("inspect", artifact).out.splitlines()
    assert "run here: bf16, fp32" in lines
    assert "leaves GPUs out: bf16 needs compute capability 8.0, and T4 has 7.5" in lines
    shown = json.loads(tuneport("inspect", artifact, "--json").out)
    assert shown["unfit_gpus"] == {"bf16": ["needs compute capability 8.0, and T4 has 7.5"]}


def test_an_artifact_of_which_nothing_runs_here_is_not_verified(artifact: Path) -> None:
    of_devices(load_manifest(artifact), ("fp16", {"device": "cuda", "precision": "fp16"})).save(artifact)
    answer = tuneport("verify", artifact)
    assert answer.code == 1
    assert_one_line(answer.err, "no CUDAExecutionProvider", "tuneport[gpu]")


def test_verify_refuses_a_changed_byte(artifact: Path) -> None:
    change_byte(artifact / "onnx" / "int8" / "model.onnx")
    answer = tuneport("verify", artifact)
    assert answer.code == 1
    assert_one_line(answer.err, "int8/model.onnx", "SHA-256")


def test_verify_refuses_answers_that_are_not_torch_s(artifact: Path) -> None:
    alter_golden(artifact, 9.0)
    answer = tuneport("verify", artifact)
    assert answer.code == 1
    assert_one_line(answer.err, "fp32 differs from torch by 9")


def test_inspect_shows_every_variant_its_evidence_and_origin(tiny_artifact: Path) -> None:
    manifest = load_manifest(tiny_artifact)
    out = tuneport("inspect", tiny_artifact).out
    for variant in manifest.variants:
        assert variant.name in out
        assert f"{variant.evidence.parity.agreement:.2%}" in out
    for word in (manifest.version, *LABELS, manifest.provenance.checkpoint_sha256[:12], "240 validation inputs"):
        assert word in out


def test_scripts_read_json(tiny_artifact: Path) -> None:
    shown = json.loads(tuneport("inspect", tiny_artifact, "--json").out)
    assert shown["manifest"]["name"] == "tiny"
    assert shown["obstacles"] == {"fp32": None, "int8": None}
    assert shown["unfit_gpus"] == {}
    verified = json.loads(tuneport("verify", tiny_artifact, "--json").out)["variants"]
    assert [each["name"] for each in verified] == ["fp32", "int8"]
    assert all(each["difference"] <= each["tolerance"] for each in verified)


def test_colours_are_for_terminals_without_no_color(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7])[0-9;]*m")
    assert "\x1b" not in tuneport("inspect", tiny_artifact).out
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("NO_COLOR", "1")
    shown = tuneport("inspect", tiny_artifact).out
    assert "\x1b" in shown  # bold is no colour
    assert not colour.search(shown)


def test_quiet_shows_no_progress(tmp_path: Path) -> None:
    for options, is_shown in (((), True), (("--quiet",), False)):
        answer = tuneport("export", tmp_path, "--out", tmp_path / "out", *options)
        assert answer.code == 1
        assert without_progress(answer.err).startswith("error: ")
        assert (without_progress(answer.err) != answer.err) == is_shown


def test_on_a_narrow_terminal_no_figure_is_cut_off(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = tuneport("inspect", tiny_artifact).out
    monkeypatch.setattr("tuneport.cli.tables._console", lambda: Console(width=60))
    narrow = tuneport("inspect", tiny_artifact).out
    assert "…" not in narrow
    assert all(len(line) <= 60 for line in narrow.splitlines())
    for variant in load_manifest(tiny_artifact).variants:
        assert f"{variant.evidence.timing.latency_ms_p50:.1f}" in narrow
    assert "serves by default" in " ".join(narrow.split())
    assert "│" in wide or "┃" in wide


@pytest.mark.usefixtures("_quick_exports")
def test_export_prints_what_it_wrote_and_registers_it(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    import bentoml

    answer = tuneport(
        "export", tiny_checkpoint, "--data", tiny_data, "--out", tmp_path / "My Model", "--variants", "fp32"
    )
    manifest = load_manifest(tmp_path / "My Model")
    assert answer.code == 0
    assert manifest.name == "my-model"
    assert [variant.name for variant in manifest.variants] == ["fp32"]
    tag = next(word for word in answer.out.split() if word.startswith(f"tuneport:{manifest.version}-")).rstrip(";")
    assert bentoml.models.get(tag).info.labels["name"] == "my-model"


@pytest.mark.usefixtures("_quick_exports")
def test_renamed_columns_are_read(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        rows = read_rows(tiny_data / f"{split}.jsonl")
        write_rows(
            tmp_path / "data" / f"{split}.jsonl", [{"review": row["text"], "mood": row["label"]} for row in rows]
        )
    answer = tuneport(
        "export", tiny_checkpoint, "--data", tmp_path / "data", "--columns", "text=review,label=mood",
        "--variants", "fp32", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert answer.code == 0
    manifest = load_manifest(tmp_path / "out")
    found = json.loads(answer.out)
    assert found.pop("tag").startswith(f"tuneport:{manifest.version}-")
    assert found == {
        "artifact": str(tmp_path / "out"), "name": "out", "version": manifest.version, "default_variant": "fp32",
        "variants": ["fp32"], "rejected": {},
    }  # fmt: skip
    metric = manifest.variant().evidence.metric
    assert metric is not None
    assert metric.value == pytest.approx(0.9)


QUICK = ("--rounds", "1", "--shapes", "1x8,2x16")
"""Options of a short `tuneport bench`."""


@pytest.mark.parametrize("command", ["export", "bench"])
def test_an_out_that_exists_is_refused_before_any_work(
    tiny_checkpoint: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for function in ("export.pipeline.open_source", "benchmarks.engine.load_manifest"):
        monkeypatch.setattr(f"tuneport.stages.{function}", lambda *_: pytest.fail("work was done"))
    before = {path: path.read_bytes() for path in artifact.rglob("*") if path.is_file()}
    answer = tuneport(command, tiny_checkpoint if command == "export" else artifact, "--out", artifact)
    assert answer.code == 1
    assert_one_line(answer.err, "exists", "--overwrite")
    assert {path: path.read_bytes() for path in artifact.rglob("*") if path.is_file()} == before


def test_the_folder_that_one_is_in_is_no_out(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = tuneport("export", tiny_checkpoint, "--out", ".", "--overwrite")
    assert (done.code, done.err) == (1, "error: . is the folder that you are in; choose a new folder within it\n")


def test_bench_writes_a_report_of_every_variant_against_torch(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(torch_footprint.DTYPES, "bf16")  # one process that imports torch is enough
    answer = tuneport("bench", tiny_artifact, "--out", tmp_path / "report", "--num-inputs", "40", *QUICK)
    assert answer.code == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    results = {result["name"]: result for result in report["results"]}
    baselines = {"torch fp32", "torch bf16", "torch int8"}
    assert {"torch fp32", "fp32", "int8"} <= results.keys() <= {*baselines, "fp32", "int8"}
    assert report["split"] == "test"
    assert results["fp32"]["agreement"] == 1.0
    assert results["fp32"]["metric"] == results["torch fp32"]["metric"]
    assert results["fp32"]["metric"]["value"] == pytest.approx(0.9)
    assert results["torch fp32"]["timing"]["speed_up"] == 1.0
    assert results["torch fp32"]["memory_mib"] > 50
    for result in results.values():
        timing = result["timing"]
        assert 0 < timing["latency_ms_p50"] <= timing["latency_ms_p95"]
        assert timing["latency_ms_p99"] is None  # withheld: 40 samples
    table = (tmp_path / "report" / "report.md").read_text()
    assert all(name in table and name in answer.out for name in results)
    assert (tmp_path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert [(each["rows"], each["tokens"]) for each in results["int8"]["shapes"]] == [(1, 8), (2, 16)]
    assert "tokens are left out" not in table
    assert report["schema_version"] == 2
    assert report["manifest_sha256"] == sha256(tiny_artifact / "manifest.json")
    assert report["machine"]["product_tflops"]["fp32"] > 0
    assert report["machine"]["versions"]["torch"]
    same = tuneport("bench", "--compare", tmp_path / "report", tmp_path / "report" / "report.json")
    assert same.code == 0
    table, caption, _ = same.out.partition("Beyond noise")
    assert caption
    assert "fp32" in table
    assert not any(verdict in table for verdict in ("better", "worse"))


def test_bench_times_no_wrong_model(artifact: Path, tmp_path: Path) -> None:
    alter_golden(artifact, 9.0)
    answer = tuneport("bench", artifact, "--out", tmp_path / "report", "--num-inputs", "5", "--rounds", "1")
    assert answer.code == 1
    assert "differs from torch" in answer.err.splitlines()[-1]
    assert not (tmp_path / "report").exists()


def test_bench_compares_with_no_other_checkpoint(tiny_artifact: Path, tmp_path: Path) -> None:
    build_checkpoint(tmp_path / "other", labels=("x", "y", "z"))
    answer = tuneport("bench", tiny_artifact, "--out", tmp_path / "report", "--checkpoint", tmp_path / "other")
    assert answer.code == 1
    assert "not what tiny was exported from" in answer.err


def test_serve_refuses_wrong_settings_before_it_starts(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_MAX_CLIENT_BATCH_SIZE", "many")
    answer = tuneport("serve", tiny_artifact)
    assert answer.code == 1
    assert_one_line(answer.err, "TUNEPORT_MAX_CLIENT_BATCH_SIZE")


@pytest.mark.parametrize("command", ["predict", "verify", "inspect", "serve", "build"])
def test_an_artifact_that_is_not_there_is_one_line(tmp_path: Path, command: str) -> None:
    answer = tuneport(command, tmp_path / "nowhere", *(["bank"] if command == "predict" else []))
    assert answer.code == 1
    assert_one_line(answer.err, "nowhere does not exist")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_library_swallows_interrupts_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    """pybind11 swallows it while it imports a module."""

    def run(*_: Any, progress: Callable[[str], object], **__: Any) -> None:
        for _ in range(2):  # the second comes while the first unwinds
            try:
                os.kill(os.getpid(), sent)
            except KeyboardInterrupt:
                swallowed.append(sent)
        progress("the next step")

    swallowed: list[signal.Signals] = []
    monkeypatch.setattr("tuneport.stages.export.pipeline.export", run)
    done = tuneport("export", tmp_path, "--out", tmp_path / "out")
    assert done.code == 130
    assert done.err == "interrupted; nothing half-written was left behind\n"
    assert swallowed == [sent]
