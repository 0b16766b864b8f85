"""The command of the GPU check: its arguments, no GPU, the tests on a GPU, and all of it on a CPU (slow)."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kit.encoders import tiny_encoder

from tuneport.gpu import Gpu
from tuneport.host import Host
from tuneport.stages.benchmarks.gpu_check import main as gpu_check_main
from tuneport.stages.benchmarks.gpu_check.gpu_tests import ROOT, count_cases, gpu_test_files, run_gpu_tests
from tuneport.stages.benchmarks.gpu_check.main import main, report_name
from tuneport.stages.benchmarks.gpu_check.report import GpuCheckReport


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "ten"])
def test_a_time_without_end_or_without_length_is_refused(minutes: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--minutes", minutes, "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "minutes"), [([], 30.0), (["--floors"], 10.0), (["--floors", "--minutes", "4"], 4.0)]
)
def test_floors_has_a_shorter_time_and_the_report_says_that_others_were_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], minutes: float
) -> None:
    monkeypatch.setattr(gpu_check_main, "run_steps", lambda *_, limit_s, **__: limits.append(limit_s) or ())
    limits: list[float] = []
    with pytest.raises(SystemExit):
        main(["--device", "cpu", "--model", "m", "--data", "d", "--out", str(tmp_path / "out"), *arguments])
    assert limits == [60 * minutes]
    report = GpuCheckReport.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert (report.minutes, report.is_floors_only) == (minutes, bool(arguments))
    assert ("Only the steps of the floors." in report.text()) == bool(arguments)


def test_the_folder_of_a_report_is_named_after_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", compute_capability="9.0", memory_gib=10)
    host = Host(cpu="a", cores=2, instructions=(), memory_gib=8, system="Linux x86_64", gpus=(gpu,))
    monkeypatch.setattr(gpu_check_main.Host, "here", lambda: host)
    assert report_name("cuda") == "nvidia-h100-80gb-hbm3-mig-1g-10gb"
    assert report_name("cpu") == "cpu"


def test_without_a_gpu_the_check_fails_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step of the real plan alone; the others would need a model."""
    plan = gpu_check_main.plan_steps
    monkeypatch.setattr(gpu_check_main, "plan_steps", lambda *arguments, **names: plan(*arguments, **names)[:1])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit) as end:
        main(["--device", "cuda", "--model", "m", "--data", "d", "--out", str(tmp_path / "out")])
    assert end.value.code == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (step,) = report["steps"]
    assert (step["name"], step["status"], step["exit_code"]) == ("environment", "failed", 1)
    assert step["detail"].startswith("error: ")
    assert "| environment | failed | 1 |" in capsys.readouterr().out


def test_skipped_tests_are_counted_with_their_reasons() -> None:
    outcomes = [("a", "passed"), ("b", "skipped"), ("c", "failed"), ("d", "passed"), ("d", "failed")]
    cases = [{"test": test, "outcome": outcome, "reason": "no GPU" * (test == "b")} for test, outcome in outcomes]
    assert count_cases(cases) == {"passed": 1, "failed": ["c", "d"], "skipped": 1, "reasons": ["no GPU"]}


@pytest.mark.slow
def test_the_gpu_tests_are_skipped_or_pass(tmp_path: Path) -> None:
    names = {file.name for file in gpu_test_files(ROOT)}
    assert {"test_torch_device.py", "test_engine_benchmark.py"} <= names
    assert "test_http.py" not in names  # needs packages that a GPU machine may lack
    code, found = run_gpu_tests(ROOT, tmp_path / "result.json")
    assert code == 0
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert found["failed"] == []
    assert found["passed"] + found["skipped"] >= 3
    assert (found["skipped"] == 0) == (found["reasons"] == [])
    assert all(found["reasons"])


@pytest.mark.slow
def test_the_gpu_tests_that_ran_before_the_time_was_over_are_reported(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    started = tmp_path / "started"
    lines = [
        "import pathlib, time, pytest", "pytestmark = pytest.mark.gpu", "def test_passes(): pass",
        "def test_fails(): raise ValueError", "@pytest.mark.skip('none')", "def test_is_skipped(): pass",
        f"def test_hangs(): pathlib.Path({str(started)!r}).touch(); time.sleep(60)",
    ]  # fmt: skip
    (tmp_path / "tests" / "test_gpu.py").write_text("\n".join(lines))
    script = (
        "import pathlib, signal, sys\n"
        "from tuneport.stages.benchmarks.gpu_check import gpu_tests\n"
        f"gpu_tests.PROCESSES, gpu_tests.ROOT = 1, pathlib.Path({str(tmp_path)!r})\n"
        "gpu_tests.main()"
    )
    result = tmp_path / "result.json"
    process = subprocess.Popen([sys.executable, "-P", "-c", script, "cuda", str(result)], start_new_session=True)
    ends_at = time.monotonic() + 60
    while not started.exists() and time.monotonic() < ends_at:
        time.sleep(0.02)
    process.terminate()
    assert process.wait(30) == 1
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # as the check ends what a step leaves
    assert json.loads(result.read_text()) == {
        "passed": 1, "failed": ["tests/test_gpu.py::test_fails"], "skipped": 1, "reasons": ["none"],
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_step_passes_on_a_cpu(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    base = tiny_encoder(tmp_path / "base")
    arguments = ["--device", "cpu", "--model", str(base), "--data", str(tiny_data), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--work", str(tmp_path / "work"), "--minutes", "20"])
    report = GpuCheckReport.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert {step.name: (step.status, step.detail) for step in report.steps if step.status != "passed"} == {}
    assert end.value.code == 0
    assert report.speeds().keys() == {"tuned", "random-bert", "all-variants"}
    assert report.finetuning
    assert report.training
    found = report.endpoint_figures()
    assert found
    assert (found.requests_per_s or 0) > 0
    assert found.added_ms is not None
    assert report.bench
    assert report.endpoint
    assert str(tmp_path) not in (tmp_path / "out" / "report.json").read_text()
    assert sys.executable not in (tmp_path / "out" / "report.md").read_text()
