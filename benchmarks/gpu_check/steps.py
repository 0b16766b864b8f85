"""The steps of the check: each a process of its own, bounded in time, with its exit code and its duration."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuneport.runtime.user_cache import write_file
from tuneport.schema.base import Frozen

Status = Literal["passed", "failed", "timed out", "ended", "not run"]
PASSED: Status = "passed"
ENDED = "the check ended before it"
DETAIL_LINES, DETAIL_CHARS = 6, 1200
"""Of the end of a failed step's output that go into the report."""
STOP_SECONDS, ENDED_STOP_SECONDS = 10.0, 4.0
"""For a step to stop its servers; less where the check is ended, which may be killed 10 s after it was asked to end."""
MIN_SECONDS = 2.0
"""A step with less time left is not started."""


@dataclass(frozen=True)
class Step:
    """A command of the check."""

    name: str
    command: tuple[str, ...]
    """Arguments of the Python interpreter."""
    limit_s: float
    needs: tuple[str, ...] = ()
    """Steps without which it cannot run."""
    result: Path | None = None
    """A JSON file that it writes, for the report."""
    makes: Path | None = None
    """A folder that it makes."""


class StepResult(Frozen):
    """How a step ended."""

    name: str
    status: Status
    exit_code: int | None
    """None if it did not run to its end."""
    seconds: float
    limit_s: float
    detail: str = ""
    """Why it did not run, or the end of its output if it failed."""
    result: dict[str, Any] | None = None
    """What it measured."""


def run_steps(
    steps: Sequence[Step],
    work: Path,
    *,
    limit_s: float,
    progress: Callable[[str], object] = lambda _: None,
    keep: Callable[[tuple[StepResult, ...]], object] = lambda _: None,
) -> tuple[StepResult, ...]:
    """Run every step whose needs are met, whatever became of the others; together within `limit_s` seconds.

    The output of each goes to `work/NAME.log`. `keep` gets the results of all steps after each that ran, those to come
    as `not run`: so that they are kept if the check itself is killed. If it is ended by SystemExit or Ctrl-C, the step
    that runs is `ended`, and no other one is started.
    """
    ends_at = time.monotonic() + limit_s
    results: dict[str, StepResult] = {}
    is_ended = False
    for step in steps:
        progress(step.name)
        missing = [name for name in step.needs if results[name].status != PASSED]
        left_s = ends_at - time.monotonic()
        if is_ended:
            results[step.name] = _not_run(step, ENDED)
        elif missing:
            results[step.name] = _not_run(step, f"it needs {', '.join(missing)}")
        elif left_s < MIN_SECONDS:
            results[step.name] = _not_run(step, f"the check's {limit_s:g} s are over")
        else:
            results[step.name] = run_step(step, work, min(step.limit_s, left_s))
        done = results[step.name]
        is_ended = is_ended or done.status == "ended"
        progress(f"{step.name}: {done.status} in {done.seconds:.1f} s{_reason(done)}")
        if done.status != "not run":
            keep(tuple(results.get(each.name) or _not_run(each, ENDED) for each in steps))
    return tuple(results.values())


def run_step(step: Step, work: Path, limit_s: float) -> StepResult:
    """Run one step and end all of its processes; those that it left, too."""
    log, started = work / f"{step.name}.log", time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
            status: Status = PASSED if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            code, status = None, "timed out"
            _stop(process, STOP_SECONDS)
        except (SystemExit, KeyboardInterrupt):
            code, status = None, "ended"
            _stop(process, ENDED_STOP_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return StepResult(
        name=step.name,
        status=status,
        exit_code=code,
        seconds=round(time.monotonic() - started, 1),
        limit_s=round(limit_s, 1),
        detail="" if status == PASSED else _tail(log, work),
        result=read_json(step.result),
    )


def write_result(file: str | Path, text: str) -> None:
    """Write the result of a step, whole or not at all: it may be ended at any time."""
    write_file(Path(file), text.encode())


def _stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a process to end: it stops the servers that it started, which lead sessions of their own."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _not_run(step: Step, why: str) -> StepResult:
    return StepResult(name=step.name, status="not run", exit_code=None, seconds=0, limit_s=step.limit_s, detail=why)


def _reason(result: StepResult) -> str:
    return f": {result.detail.splitlines()[-1]}" if result.detail else ""


def _tail(log: Path, work: Path) -> str:
    """Return the end of a step's output, without the folders of this machine."""
    text = log.read_text(encoding="utf-8", errors="replace").replace(str(work), "WORK")
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-DETAIL_LINES:])[-DETAIL_CHARS:]


def read_json(file: Path | None) -> dict[str, Any] | None:
    """Read an object from a JSON file; None if there is none, or the file is broken."""
    if file is None or not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
