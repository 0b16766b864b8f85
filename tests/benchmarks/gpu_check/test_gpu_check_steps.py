"""The GPU check runs steps one after the other; one that fails, hangs or leaves processes spoils no other."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tuneport.stages.benchmarks.gpu_check.steps import Step, run_steps, write_result


def python(name: str, code: str, **fields: Any) -> Step:
    return Step(name, ("-c", code), **{"limit_s": 20.0, **fields})


def test_a_failed_step_hides_no_other_one(tmp_path: Path) -> None:
    result = tmp_path / "measured.json"
    steps = (
        python("fails", "import sys; print('why'); sys.exit(3)"),
        python("needs it", "pass", needs=("fails",)),
        python("measures", f"open({str(result)!r}, 'w').write('{{\"ms\": 4}}')", result=result),
        python("hangs", "import time; time.sleep(60)", limit_s=0.5),
        python("passes", "pass"),
        python("raises", f"raise ValueError({str(tmp_path)!r})"),
    )
    lines: list[str] = []
    results = {each.name: each for each in run_steps(steps, tmp_path, limit_s=100, progress=lines.append)}
    assert {name: each.status for name, each in results.items()} == {
        "fails": "failed", "needs it": "not run", "measures": "passed", "hangs": "timed out", "passes": "passed",
        "raises": "failed",
    }  # fmt: skip
    assert (results["fails"].exit_code, results["fails"].detail) == (3, "why")
    assert (results["needs it"].exit_code, results["needs it"].detail) == (None, "it needs fails")
    assert results["measures"].result == {"ms": 4}
    assert results["hangs"].exit_code is None
    assert 0.4 < results["hangs"].seconds < 20
    assert results["raises"].detail.endswith("ValueError: WORK")  # no folder of this machine
    assert "fails: failed" in lines[1]


def test_results_are_kept_after_each_step(tmp_path: Path) -> None:
    kept: list[dict[str, str]] = []
    steps = (python("first", "pass"), python("second", "import sys; sys.exit(1)"), python("third", "pass"))
    run_steps(
        steps, tmp_path, limit_s=100, keep=lambda results: kept.append({each.name: each.status for each in results})
    )
    assert kept == [
        {"first": "passed", "second": "not run", "third": "not run"},
        {"first": "passed", "second": "failed", "third": "not run"},
        {"first": "passed", "second": "failed", "third": "passed"},
    ]


def test_a_broken_result_is_none_and_the_next_steps_run(tmp_path: Path) -> None:
    for text in ('{"ms": ', "[1]", "", "\xff"):
        result = tmp_path / "broken.json"
        code = f"open({str(result)!r}, 'w', encoding='latin-1').write({text!r})"
        broken, after = run_steps(
            (python("broken", code, result=result), python("after", "pass")), tmp_path, limit_s=60
        )
        assert (broken.status, broken.result, after.status) == ("passed", None, "passed")


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "result.json"
    write_result(str(file), "{}")

    def fail(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        write_result(file, '{"ms": 4}')
    assert file.read_text() == "{}"


def test_a_check_that_is_ended_keeps_what_the_running_step_wrote_and_ends_it(tmp_path: Path) -> None:
    """The step stops what it started when it is asked to, and its own process group is ended in any case."""
    child = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    measures = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open("asked", "w").close(), sys.exit(1)))
subprocess.Popen([sys.executable, "-c", {child!r}])
while not (os.path.exists("pid") and open("pid").read()): time.sleep(0.01)
open("measured.json", "w").write('{{"ms": 4}}')
open("ready", "w").close()
time.sleep(60)
"""
    script = f"""
import json, signal, sys
from pathlib import Path
from tuneport.stages.benchmarks.gpu_check.steps import Step, run_steps
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
steps = (Step("measures", ("-c", {measures!r}), 50, result=Path("measured.json")), Step("late", ("-c", "pass"), 50))
keep = lambda results: Path("kept.json").write_text(json.dumps([each.model_dump() for each in results]))
run_steps(steps, Path(), limit_s=50, keep=keep)
print("over")
"""
    command = [sys.executable, "-P", "-c", script]
    check = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    ends_at = time.monotonic() + 40
    while not (tmp_path / "ready").exists() and time.monotonic() < ends_at:
        time.sleep(0.02)
    check.terminate()
    output, _ = check.communicate(timeout=30)
    assert (check.returncode, output) == (0, "over\n")
    measured, late = json.loads((tmp_path / "kept.json").read_text())
    assert (measured["status"], measured["exit_code"], measured["result"]) == ("ended", None, {"ms": 4})
    assert (late["status"], late["detail"]) == ("not run", "the check ended before it")
    assert (tmp_path / "asked").exists()
    pid, ends_at = (tmp_path / "pid").read_text(), time.monotonic() + 10
    while is_running(pid) and time.monotonic() < ends_at:
        time.sleep(0.01)
    assert not is_running(pid)


def test_no_step_starts_or_goes_on_after_the_time_of_all(tmp_path: Path) -> None:
    started = time.monotonic()
    steps = (python("long", "import time; time.sleep(60)", limit_s=60), python("late", "pass"))
    long, late = run_steps(steps, tmp_path, limit_s=2.5)
    assert time.monotonic() - started < 30
    assert (long.status, late.status) == ("timed out", "not run")
    assert late.detail == "the check's 2.5 s are over"


def test_the_processes_that_a_step_leaves_are_ended(tmp_path: Path) -> None:
    child = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"""
import os, subprocess, sys, time
os.chdir({str(tmp_path)!r})
subprocess.Popen([sys.executable, "-c", {child!r}])
while not (os.path.exists("pid") and open("pid").read()): time.sleep(0.01)
"""
    (result,) = run_steps([python("leaves one", code)], tmp_path, limit_s=30)
    assert result.status == "passed"
    pid, ends_at = (tmp_path / "pid").read_text(), time.monotonic() + 10
    while is_running(pid) and time.monotonic() < ends_at:
        time.sleep(0.01)
    assert not is_running(pid)


def is_running(pid: str) -> bool:
    try:
        return (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
