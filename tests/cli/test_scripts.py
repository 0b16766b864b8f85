"""What scripts rely on, for every command: one JSON value on stdout, errors on stderr, exit codes."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from kit.command import assert_one_line, tuneport, without_progress
from kit.data import write_rows
from kit.reports import endpoint_report, engine_report, level, model_result, server

from tuneport.cli.app import COMMANDS
from tuneport.cli.json_output import json_output
from tuneport.schema.loading import load_manifest
from tuneport.signing import make_keys, sign

FAILING: dict[str, tuple[str, ...]] = {
    "average": ("absent/a", "absent/b", "--out", "out"),
    "bench": ("absent", "--out", "out"),
    "bench-endpoint": ("absent", "--out", "out"),
    "build": ("absent",),
    "combine": ("absent", "absent", "--out", "out"),
    "demo": ("--out", "taken"),
    "export": ("absent", "--out", "out"),
    "finetune": ("--task", "regression", "--model", "absent", "--data", "absent.csv", "--out", "out"),
    "init": ("absent.csv", "--out", "f.toml"),
    "inspect": ("absent",),
    "keygen": ("taken/run",),
    "models": ("http://127.0.0.1:1", "load", "news", "--quiet"),
    "plan": ("--rate", "5", "--p99-ms", "50", "--report", "absent"),
    "predict": ("absent", "a text"),
    "pull": ("absent", "--out", "out"),
    "push": ("absent", "there"),
    "score": ("absent", "absent.jsonl", "--out", "scored.jsonl"),
    "search": ("--space", "absent.toml", "--task", "regression", "--model", "m", "--data", "d", "--out", "out"),
    "serve": ("absent",),
    "sign": ("absent", "--secret-key", "absent.key"),
    "verify": ("absent",),
}
"""Command → arguments with which it fails."""
WITH_JSON = {
    "bench", "bench-endpoint", "build", "combine", "doctor", "export", "inspect", "models", "plan", "pull", "push",
    "score", "verify",
}  # fmt: skip
UNSIGNED = {"state": "unsigned", "key_id": None, "comment": None}


def test_every_command_is_in_the_table() -> None:
    # doctor fails with its findings on stdout; containerize passes on what BentoML's command says.
    assert FAILING.keys() == COMMANDS.keys() - {"doctor", "containerize"}
    assert {name for name in COMMANDS if "--json" in usage(name)} == WITH_JSON


def usage(command: str) -> str:
    return tuneport(command, "--help").out.partition("Options:")[2]


@pytest.mark.parametrize("command", FAILING)
def test_an_error_is_one_line_on_stderr(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken" / "run").mkdir(parents=True)
    (tmp_path / "taken" / "run" / "note").write_text("mine")
    for options in ((), ("--json",)) if command in WITH_JSON else ((),):
        answer = tuneport(command, *FAILING[command], *options)
        assert (answer.code, answer.out) == (1, "")
        assert_one_line(without_progress(answer.err))


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"containerize"}))  # its unknown options are BentoML's
def test_wrong_usage_leaves_stdout_empty(command: str) -> None:
    answer = tuneport(command, "--no-such-option")
    assert (answer.code, answer.out) == (2, "")
    assert "--no-such-option" in answer.err


def test_doctor_says_in_json_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_WORKERS", "many")
    monkeypatch.setattr("tuneport.doctor.diagnose.diagnose", lambda checks: checks["service"]())  # the others take long
    answer = tuneport("doctor", "--json")
    assert (answer.code, answer.err, answer.out.count("\n")) == (1, "", 1)
    found = json.loads(answer.out)
    assert found["ok"] is False
    assert "TUNEPORT_WORKERS" in found["findings"][0]["found"]


def read_one(*arguments: str | Path) -> Any:
    """Run a command with --json, and return the one value that it printed, on one line."""
    answer = tuneport(*arguments, "--json")
    assert answer.code == 0, answer.err
    assert answer.out.count("\n") == 1
    return json.loads(answer.out)


def test_an_artifact_travels_under_its_name_and_version(tiny_artifact: Path, tmp_path: Path) -> None:
    manifest = load_manifest(tiny_artifact)
    identity = {"name": "tiny", "version": manifest.version}
    store, out = tmp_path / "store", tmp_path / "out"
    assert read_one("push", tiny_artifact, str(store)) == {**identity, "url": str(store)}
    pulled = read_one("pull", str(store), "--out", out)
    assert pulled == {**identity, "artifact": str(out), "signature": UNSIGNED}
    assert load_manifest(out) == manifest


def test_verify_names_signature_and_variants(artifact: Path, tmp_path: Path) -> None:
    found = read_one("verify", artifact)
    assert found["signature"] == UNSIGNED
    assert [(each["name"], each["obstacle"]) for each in found["variants"]] == [("fp32", None), ("int8", None)]
    public = make_keys(tmp_path / "key")
    signed = sign(artifact, tmp_path / "key")
    assert read_one("verify", artifact)["signature"] == {**UNSIGNED, "state": "unchecked"}
    assert read_one("verify", artifact, "--public-key", public)["signature"] == asdict(signed)


def test_scored_and_rejected_rows_are_counted(tiny_artifact: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [{"text": "the bank"}, {"other": 1}, {"text": "a band"}])
    out = tmp_path / "scored.jsonl"
    assert read_one("score", tiny_artifact, source, "--out", out) == {"out": str(out), "scored": 2, "rejected": 1}


def test_the_plan_has_machines_and_capacity(tmp_path: Path) -> None:
    report = endpoint_report(server("fast", level(8, 100, 40)), server("slow", level(8, 100, 80)))
    (tmp_path / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
    found = read_one("plan", "--rate", "500", "--p99-ms", "50", "--report", tmp_path)
    capacity = {"requests_per_s": 100, "latency_ms_p99": 40, "is_open_loop": False}
    assert found["servers"] == [
        {"name": "fast", "capacity": capacity, "machines": 7, "cost_per_hour": None},
        {"name": "slow", "capacity": None, "machines": 0, "cost_per_hour": None},
    ]


def test_a_comparison_has_each_change_even_if_it_fails(tmp_path: Path) -> None:
    files = []
    for speed in (500, 300):
        results = model_result("int8", texts_per_s=speed, texts_per_s_interval=(speed - 1, speed + 1))
        files.append(tmp_path / f"{speed}.json")
        files[-1].write_text(engine_report(results).model_dump_json(), encoding="utf-8")
    answer = tuneport("bench", "--compare", *files, "--json")
    assert answer.code == 1
    assert_one_line(answer.err, "int8 texts/s (-40.0%)")
    verdicts = {each["figure"]: each["verdict"] for each in json.loads(answer.out)["changes"]}
    assert (verdicts["texts/s"], verdicts["p50 ms"]) == ("worse", "same")


def test_a_bento_is_built_with_its_tag_alone_on_stdout(tiny_artifact: Path) -> None:
    """In a process of its own, whose stdout is also that of BentoML and of what it starts."""
    import bentoml

    command = [sys.executable, "-m", "tuneport", "build", str(tiny_artifact), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    built = bentoml.bentos.get(json.loads(done.stdout)["tag"])
    assert str(built.info.all_models[0].tag).startswith(f"tuneport:{load_manifest(tiny_artifact).version}-")


@pytest.mark.parametrize(
    "write",
    [lambda: sys.stdout.write("noise\n"), lambda: subprocess.run(["echo", "noise"], check=True)],
    ids=["python", "process"],
)
def test_what_a_library_prints_goes_to_stderr(write: Callable[[], object], capfd: pytest.CaptureFixture[str]) -> None:
    with json_output(enabled=True) as print_value:
        print_value({"ä": None})
        write()
    assert capfd.readouterr() == ('{"ä": null}\n', "noise\n")
    write()
    assert capfd.readouterr().out == "noise\n"
