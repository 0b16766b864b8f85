"""Steps of an export in processes of their own: results, errors and progress arrive, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from kit.exports import export_variants
from kit.generative_exports import Export

from tuneport.cli.signals import INTERRUPTED
from tuneport.errors import EngineError, MethodNotAllowed, TuneportError
from tuneport.schema.artifact import GOLDEN
from tuneport.schema.loading import check_files, load_manifest
from tuneport.stages.export.steps import Steps


class Unportable(Exception):
    """Cannot be made from its arguments alone."""

    def __init__(self, problem: str, *, code: int) -> None:
        super().__init__(f"{problem} {code}")


def apart(progress: Callable[[str], object] = lambda _: None) -> Steps:
    return Steps(progress, are_apart=True)


def fail(error: BaseException) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


def test_a_step_runs_in_a_process_of_its_own_and_its_result_and_progress_arrive() -> None:
    lines: list[str] = []
    steps, changed = apart(lines.append), []

    def step() -> tuple[int, int]:
        changed.append(1)
        steps.progress("first")
        inner = steps.run(os.getpid)
        steps.progress("second")
        return os.getpid(), inner

    outer, inner = steps.run(step)
    assert outer == inner != os.getpid()
    assert lines == ["first", "second"]
    assert changed == []  # its memory has ended with it


def test_steps_run_here_unless_they_are_asked_to_run_apart() -> None:
    assert Steps().run(os.getpid) == os.getpid()


@pytest.mark.parametrize(
    "error", [EngineError("it is off", "switch it on"), MethodNotAllowed("no GET", "POST"), OSError(28, "No space")]
)
def test_an_error_arrives_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as found:
        apart().run(fail(error))
    assert str(found.value) == str(error)
    assert {name: value for name, value in vars(found.value).items() if name != "__notes__"} == vars(error)
    assert "in step" in found.value.__notes__[0]
    if isinstance(error, TuneportError):
        assert (found.value.problem, found.value.remedy) == (error.problem, error.remedy)  # type: ignore[attr-defined]


def test_an_error_whose_class_cannot_be_pickled_is_told_in_words() -> None:
    with pytest.raises(RuntimeError, match="Unportable: it failed with 7"):
        apart().run(fail(Unportable("it failed with", code=7)))


def test_a_step_that_is_killed_is_an_error() -> None:
    with pytest.raises(EngineError, match="ended with exit code -9"):
        apart().run(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_an_interrupted_step_removes_its_files_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def step() -> None:
        signal.signal(signal.SIGTERM, interrupt)  # as the command line does
        with tempfile.TemporaryDirectory(dir=tmp_path):
            steps.progress(str(os.getpid()))
            time.sleep(60)

    pids: list[int] = []

    def progress(line: str) -> None:
        pids.append(int(line))
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt

    steps = apart(progress)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        steps.run(step)
    assert time.monotonic() - started < 30
    assert not psutil.pid_exists(pids[0])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    with pytest.raises(KeyboardInterrupt):  # of a signal to the step alone
        apart().run(fail(KeyboardInterrupt()))


def test_a_step_ends_with_an_export_that_is_killed() -> None:
    script = (
        "import os, time\n"
        "from tuneport.stages.export.steps import Steps\n"
        "steps = Steps(lambda line: print(line, flush=True), are_apart=True)\n"
        "steps.run(lambda: (steps.progress(str(os.getpid())), time.sleep(60)))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(pid)


def export_command(checkpoint: Path, data: Path, out: Path) -> list[str]:
    options = ["--data", str(data), "--out", str(out), "--variants", "fp32,int8"]
    return [sys.executable, "-m", "tuneport", "export", str(checkpoint), *options]


@pytest.mark.slow
@pytest.mark.usefixtures("_quick_exports")
def test_an_export_in_steps_writes_the_same_files(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    """The command line runs its steps apart, this process does not."""
    subprocess.run(export_command(tiny_checkpoint, tiny_data, tmp_path / "apart"), check=True, capture_output=True)
    here = export_variants(tiny_checkpoint, tiny_data, tmp_path / "here", "fp32", "int8")
    apart = load_manifest(tmp_path / "apart")
    check_files(tmp_path / "apart", apart)
    for ours, theirs in zip(apart.variants, here.variants, strict=True):
        assert ours.execution.files == theirs.execution.files
        assert ours.evidence.parity == theirs.evidence.parity
    assert (tmp_path / "apart" / GOLDEN).read_bytes() == (tmp_path / "here" / GOLDEN).read_bytes()


@pytest.mark.slow
def test_a_generative_model_is_timed_in_another_process_than_the_one_that_computed_its_outputs(
    exported: Export, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tuneport", "export", str(exported("gpt2").run), "--variants", "fp32", "--out"]
    done = subprocess.run([*command, str(tmp_path / "out")], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = load_manifest(tmp_path / "out")
    assert manifest.baselines[0].timing.texts_per_s > 0
    assert [variant.name for variant in manifest.variants] == ["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    """SIGINT goes to all processes, as a terminal sends it; SIGTERM to the first one alone, as `kill` does."""
    command = export_command(tiny_checkpoint, tiny_data, tmp_path / "out")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "building and checking fp32" in line:
                break
        time.sleep(0.2)
        children = psutil.Process(process.pid).children(recursive=True)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == INTERRUPTED
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
    assert not any(child.is_running() for child in children)
