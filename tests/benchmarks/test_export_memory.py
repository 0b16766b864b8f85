"""The benchmark of an export's memory: it counts all processes, and names the steps."""

import subprocess
import sys
from pathlib import Path

import pytest

from tuneport.stages.benchmarks.export_memory import ExportMemory, main, tree_mib

CHILD = "x = b'1' * (200 << 20); print(flush=True); input()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_the_memory_of_children_counts() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 200 < tree_mib(process.pid) < 300
        process.communicate(b"\n")
    assert tree_mib(process.pid) == 0


def test_the_limit_is_three_checkpoints_and_a_gibibyte() -> None:
    memory = ExportMemory(checkpoint_mib=91, peak_mib=1, steps={}, seconds=1)
    assert memory.limit_mib == 1297


@pytest.mark.slow
def test_an_export_that_fails_is_an_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith("error: the export failed: error: ")
    assert main([]) == 2


@pytest.mark.slow
def test_the_steps_of_an_export_are_measured(
    tiny_checkpoint: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_checkpoint), "--data", str(tiny_data), "--variants", "fp32"]) in (0, 1)
    memory = ExportMemory.model_validate_json(capsys.readouterr().out)
    assert {"computing torch's outputs", "converting to ONNX", "timing batches"} <= set(memory.steps)
    assert memory.peak_mib == max(memory.steps.values()) > 200
