import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import LABELS, ROOT, TorchReference, change_byte, read_rows, tuneport, write_rows
from rich.console import Console
from test_serving import alter_golden

from export import pipeline
from export.manifest import load_manifest

COMMANDS = ("demo", "finetune", "export", "predict", "verify", "inspect", "bench", "serve", "build")
TEXTS = ["bank", "the team won", "Größe 🙂"]


def assert_one_line(error: str, *words: str) -> None:
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


@pytest.fixture(scope="module")
def labels(tiny_checkpoint: Path) -> list[str]:
    return TorchReference(tiny_checkpoint).labels(TEXTS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    answer = tuneport(command, "--help")
    assert answer.code == 0
    assert f"tuneport {command}" in answer.out


def test_help_lists_every_command() -> None:
    out = tuneport("--help").out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("predicct",),
        ("predict",),
        ("export", "checkpoint"),
        ("export", "checkpoint", "--out", "out", "--device", "tpu"),
        ("export", "checkpoint", "--out", "out", "--max-drop", "2"),
        ("export", "checkpoint", "--out", "out", "--max-drop", "much"),
        ("export", "checkpoint", "--out", "out", "--columns", "text"),
        ("export", "checkpoint", "--out", "out", "--name", "No Name"),
        ("bench", "artifact", "--out", "out", "--texts", "0"),
        ("serve", "artifact", "--port", "0"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    answer = tuneport(*arguments)
    assert answer.code == 2
    assert "sage" in answer.out + answer.err


def test_predict_answers_arguments_in_order(tiny_artifact: Path, labels: list[str]) -> None:
    answer = tuneport("predict", tiny_artifact, *TEXTS)
    assert answer.code == 0
    assert [json.loads(line)["label"] for line in answer.out.splitlines()] == labels


def test_predict_answers_texts_and_objects_of_stdin_in_order(tiny_artifact: Path, labels: list[str]) -> None:
    lines = [TEXTS[0], json.dumps({"text": TEXTS[1]}), TEXTS[2]]
    answer = tuneport("predict", tiny_artifact, stdin="\n".join(lines).encode())
    assert answer.code == 0
    assert [json.loads(line)["label"] for line in answer.out.splitlines()] == labels


def test_predict_keeps_the_order_of_more_lines_than_a_window(tiny_artifact: Path, labels: list[str]) -> None:
    answer = tuneport("predict", tiny_artifact, "--variant", "fp32", stdin="\n".join(TEXTS * 200).encode())
    assert [json.loads(line)["label"] for line in answer.out.splitlines()] == labels * 200


def test_an_empty_line_is_an_empty_text_and_empty_stdin_is_nothing(tiny_artifact: Path) -> None:
    assert tuneport("predict", tiny_artifact, stdin=b"a\n\nb\n").out.count("\n") == 3
    nothing = tuneport("predict", tiny_artifact, stdin=b"")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "")


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"bank\n\xff\n", ("line 2", "UTF-8")),
        (b'bank\n{"text": \n', ("line 2", "JSON")),
        (b'{"txt": "bank"}\n', ("txt",)),
        (b'{"text": 7}\n', ("a number",)),
        (b'{"text": "\\ud800"}\n', ("surrogate",)),
    ],
)
def test_a_bad_line_of_stdin_is_one_line_on_stderr(tiny_artifact: Path, stdin: bytes, words: tuple[str, ...]) -> None:
    answer = tuneport("predict", tiny_artifact, stdin=stdin)
    assert answer.code == 1
    assert_one_line(answer.err, *words)


def test_an_argument_that_is_not_unicode_is_one_line(tiny_artifact: Path) -> None:
    answer = tuneport("predict", tiny_artifact, "bank\udcff")
    assert answer.code == 1
    assert_one_line(answer.err, "surrogate")


def test_predict_takes_a_variant_and_names_those_there_are(tiny_artifact: Path) -> None:
    assert tuneport("predict", tiny_artifact, "bank", "--variant", "int8").code == 0
    answer = tuneport("predict", tiny_artifact, "bank", "--variant", "fp64")
    assert answer.code == 1
    assert_one_line(answer.err, "fp64", "fp32, int8")


def test_a_reader_who_leaves_is_no_error(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("bank\n" * 5000)
    script = '"$0" -m tuneport.cli predict "$1" < "$2" | head -1; exit ${PIPESTATUS[0]}'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, tiny_artifact, tmp_path / "texts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_verify_names_every_variant_of_a_sound_artifact(tiny_artifact: Path) -> None:
    answer = tuneport("verify", tiny_artifact)
    assert answer.code == 0
    assert [line.partition(":")[0] for line in answer.out.splitlines()] == ["fp32", "int8"]


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
        assert f"{variant.parity.agreement:.2%}" in out
    for word in (manifest.version, *LABELS, manifest.provenance.checkpoint_sha256[:12], "240 validation inputs"):
        assert word in out


def test_export_says_what_it_made_and_registers_it(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
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


def test_renamed_columns_are_read(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        rows = read_rows(tiny_data / f"{split}.jsonl")
        write_rows(
            tmp_path / "data" / f"{split}.jsonl", [{"review": row["text"], "mood": row["label"]} for row in rows]
        )
    answer = tuneport(
        "export", tiny_checkpoint, "--data", tmp_path / "data", "--columns", "text=review,label=mood",
        "--variants", "fp32", "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.code == 0
    metric = load_manifest(tmp_path / "out").variant().metric
    assert metric is not None
    assert metric.value == pytest.approx(0.9)


@pytest.mark.parametrize("command", ["export", "bench"])
def test_an_out_that_exists_is_refused_before_any_work(
    tiny_checkpoint: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(pipeline, "open_checkpoint", lambda *_: pytest.fail("work was done"))
    before = {path: path.read_bytes() for path in artifact.rglob("*") if path.is_file()}
    answer = tuneport(command, tiny_checkpoint if command == "export" else artifact, "--out", artifact)
    assert answer.code == 1
    assert_one_line(answer.err, "exists", "--overwrite")
    assert {path: path.read_bytes() for path in artifact.rglob("*") if path.is_file()} == before


def test_bench_writes_a_report_of_every_variant_against_torch(tiny_artifact: Path, tmp_path: Path) -> None:
    answer = tuneport("bench", tiny_artifact, "--out", tmp_path / "report", "--texts", "40", "--rounds", "1")
    assert answer.code == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    results = {result["name"]: result for result in report["results"]}
    assert {"torch fp32", "fp32", "int8"} <= results.keys() <= {"torch fp32", "torch bf16", "fp32", "int8"}
    assert report["split"] == "test"
    assert results["fp32"]["agreement"] == 1.0
    assert results["fp32"]["metric"] == results["torch fp32"]["metric"]
    assert results["fp32"]["metric"]["value"] == pytest.approx(0.9)
    assert results["torch fp32"]["timing"]["speed_up"] == 1.0
    for result in results.values():
        timing = result["timing"]
        assert 0 < timing["latency_ms_p50"] <= timing["latency_ms_p95"] <= timing["latency_ms_p99"]
    table = (tmp_path / "report" / "report.md").read_text()
    assert all(name in table and name in answer.out for name in results)
    assert (tmp_path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_bench_times_no_wrong_model(artifact: Path, tmp_path: Path) -> None:
    alter_golden(artifact, 9.0)
    answer = tuneport("bench", artifact, "--out", tmp_path / "report", "--texts", "5", "--rounds", "1")
    assert answer.code == 1
    assert "differs from torch" in answer.err.splitlines()[-1]
    assert not (tmp_path / "report").exists()


def test_bench_compares_with_no_other_checkpoint(tiny_artifact: Path, tmp_path: Path) -> None:
    from helpers import build_checkpoint

    build_checkpoint(tmp_path / "other", labels=("x", "y", "z"))
    answer = tuneport("bench", tiny_artifact, "--out", tmp_path / "report", "--checkpoint", tmp_path / "other")
    assert answer.code == 1
    assert "not what tiny was exported from" in answer.err


def test_build_names_the_bento(tiny_artifact: Path) -> None:
    import bentoml

    answer = tuneport("build", tiny_artifact)
    assert answer.code == 0
    tag = answer.out.split()[1].rstrip(";")
    built = bentoml.bentos.get(tag)
    assert str(built.info.all_models[0].tag).startswith(f"tuneport:{load_manifest(tiny_artifact).version}-")


def test_serve_refuses_wrong_settings_before_it_starts(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_MAX_INPUTS", "many")
    answer = tuneport("serve", tiny_artifact)
    assert answer.code == 1
    assert_one_line(answer.err, "TUNEPORT_MAX_INPUTS")


@pytest.mark.parametrize("command", ["predict", "verify", "inspect", "serve", "build"])
def test_an_artifact_that_is_not_there_is_one_line(tmp_path: Path, command: str) -> None:
    answer = tuneport(command, tmp_path / "nowhere", *(["bank"] if command == "predict" else []))
    assert answer.code == 1
    assert_one_line(answer.err, "nowhere does not exist")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_a_library_swallows_is_heard_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    """So does pybind11 while a module of its is imported."""

    def run(*_: Any, progress: Callable[[str], object], **__: Any) -> None:
        for _ in range(2):  # the second comes while the first unwinds
            try:
                os.kill(os.getpid(), sent)
            except KeyboardInterrupt:
                swallowed.append(sent)
        progress("the next step")

    swallowed: list[signal.Signals] = []
    monkeypatch.setattr("export.pipeline.export", run)
    done = tuneport("export", tmp_path, "--out", tmp_path / "out")
    assert done.code == 130
    assert done.err == "interrupted; nothing half-written was left behind\n"
    assert swallowed == [sent]


def test_an_argument_that_begins_with_a_brace_is_json(tiny_artifact: Path) -> None:
    given = tuneport("predict", tiny_artifact, '{"text": "the bank fell"}', "the bank fell")
    assert given.out.splitlines()[0] == given.out.splitlines()[1]
    wrong = tuneport("predict", tiny_artifact, "a", "{a")
    assert wrong.code == 1
    assert wrong.err.startswith("error: input 2 is not JSON")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tiny_artifact: Path) -> None:
    line = b'{"text": "the bank fell"}\n'
    marked, plain = (tuneport("predict", tiny_artifact, stdin=mark + line) for mark in (b"\xef\xbb\xbf", b""))
    assert marked.out == plain.out


def test_json_too_deep_to_read_is_one_line(tiny_artifact: Path) -> None:
    done = tuneport("predict", tiny_artifact, stdin=b'{"text":' + b"[" * 100_000)
    assert done.code == 1
    assert done.err.startswith("error: line 1 of stdin is not JSON")


def test_a_wrong_line_is_counted_from_the_first_of_all(tiny_artifact: Path) -> None:
    done = tuneport("predict", tiny_artifact, stdin=b"bank\n" * 299 + b'{"text": null}\n')
    assert done.code == 1
    assert "inputs[299]" in done.err


def test_answers_that_cannot_be_written_are_one_line(tiny_artifact: Path) -> None:
    command = [sys.executable, "-m", "tuneport.cli", "predict", str(tiny_artifact), "bank"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: the answers cannot be written (No space left on device); send them elsewhere\n"


def test_on_a_narrow_terminal_no_figure_is_cut_off(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = tuneport("inspect", tiny_artifact).out
    monkeypatch.setattr("tuneport.show._console", lambda: Console(width=60))
    narrow = tuneport("inspect", tiny_artifact).out
    assert "…" not in narrow
    assert all(len(line) <= 60 for line in narrow.splitlines())
    for variant in load_manifest(tiny_artifact).variants:
        assert variant.timing
        assert f"{variant.timing.latency_ms_p50:.1f}" in narrow
    assert "serves by default" in " ".join(narrow.split())
    assert "│" in wide or "┃" in wide


def test_the_folder_that_one_is_in_is_no_out(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = tuneport("export", tiny_checkpoint, "--out", ".", "--overwrite")
    assert (done.code, done.err) == (1, "error: . is the folder that you are in; choose a new folder within it\n")
