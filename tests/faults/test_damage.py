"""Files that were cut or changed between two stages, and commands that were killed within one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kit import ROOT
from kit.artifacts import change_byte
from kit.command import assert_one_line, tuneport, without_progress
from kit.runs import write_run

from tuneport.errors import CheckpointError
from tuneport.modeling.identity import hash_checkpoint
from tuneport.schema.loading import check_files, load_manifest
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.facts import Facts


@pytest.fixture
def run(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A run folder with the tiny checkpoint, whose hash is in its record."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_checkpoint, folder / "checkpoint")
    return write_run(folder, checkpoint_sha256=hash_checkpoint(folder / "checkpoint"))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def test_a_run_that_is_whole_opens(run: Path) -> None:
    assert open_checkpoint(run).sha256 == hash_checkpoint(run / "checkpoint")


def test_a_checkpoint_is_hashed_once(run: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one takes seconds; the student and the manifest need the hash, too."""
    hashed: list[Path] = []

    def count(folder: Path) -> str:
        hashed.append(folder)
        return hash_checkpoint(folder)

    monkeypatch.setattr("tuneport.stages.export.checkpoint.hash_checkpoint", count)
    for path, folder in ((run, run / "checkpoint"), (tiny_checkpoint, tiny_checkpoint)):
        hashed.clear()
        checkpoint = replace(open_checkpoint(path), facts=Facts())
        assert [checkpoint.sha256 for _ in range(2)] == [hash_checkpoint(folder)] * 2
        assert hashed == [folder]


@pytest.mark.parametrize("damage", [change_byte, cut])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_checkpoint_that_changed_since_its_run_is_refused(run: Path, file: str, damage: object) -> None:
    """A flipped bit in the weights gives another model, whose conversion agrees with torch."""
    damage(run / "checkpoint" / file)  # type: ignore[operator]
    with pytest.raises(CheckpointError):
        open_checkpoint(run)
    answer = tuneport("export", run, "--out", run.parent / "artifact")
    assert answer.code == 1
    assert_one_line(without_progress(answer.err))
    assert not (run.parent / "artifact").exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["begun", "converted", "quantized"])
def test_a_killed_export_leaves_no_artifact_and_the_next_one_is_whole(
    moment: str, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "artifact"
    command = [sys.executable, "-m", "tuneport", "export", str(tiny_checkpoint), "--data", str(tiny_data)]
    command += ["--variants", "fp32,int8", "--mixed-precision-minutes", "0.05", "--out", str(out)]
    sign = {"begun": "", "converted": "onnx/fp32/model.onnx", "quantized": "onnx/int8/model.onnx"}[moment]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    partial = tmp_path / f".artifact.partial-{process.pid}"
    while not (partial / sign).exists():
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert partial.is_dir()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=280)
    check_files(out, load_manifest(out))
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "log"]
