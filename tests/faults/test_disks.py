"""A disk that is full: each command ends with one line, leaves nothing behind, and costs nothing that was there."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from kit import ROOT
from kit.command import without_progress
from kit.disks import disk_of
from kit.processes import HOST, served

pytestmark = pytest.mark.slow


def run(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tuneport", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def assert_full(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    error = without_progress(done.stderr).strip().splitlines()[-1]
    assert done.returncode == 1, done.stderr[-2000:]
    assert error.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert any(word in error for word in ("no space left", "No space left", *words)), error


def test_training(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    with disk_of(200, tmp_path) as disk:
        settings = ["--set", "max_length=32", "--set", "max_steps=4", "--set", "save_steps=2"]
        names = ["--task", "text-classification", "--model", tiny_checkpoint, "--data", tiny_data]
        assert_full(run("finetune", *names, *settings, "--set", "save_strategy=steps", "--out", disk / "run"))
        assert not list(disk.iterdir())


def test_export(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    with disk_of(300, tmp_path) as disk:
        command = ["export", tiny_checkpoint, "--data", tiny_data, "--variants", "fp32,int8"]
        assert_full(run(*command, "--out", disk / "artifact"))
        assert not list(disk.iterdir())


def test_build(tiny_artifact: Path, tmp_path: Path) -> None:
    with disk_of(400, tmp_path) as disk:
        assert_full(run("build", tiny_artifact, BENTOML_HOME=str(disk / "bentoml")), "cannot be")
        # The artifact's copy in the store of models may be there: it is whole.
        assert not [file for file in (disk / "bentoml" / "bentos").rglob("*") if file.is_file()]


def test_service_without_room_for_temporary_files(tiny_artifact: Path, tmp_path: Path) -> None:
    with disk_of(64, tmp_path) as disk:
        (disk / "filling").write_bytes(b"x" * 48_000)
        with served(tiny_artifact, tmp_path / "log", TMPDIR=str(disk)) as (_, ports):
            for _ in range(10):
                answer = httpx.post(f"http://{HOST}:{ports[0]}/predict", json={"inputs": "bank"}, timeout=30)
                assert answer.status_code == 200
