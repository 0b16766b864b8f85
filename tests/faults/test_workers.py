"""Workers that cannot start, ports that are taken, and a long load across kills, roll-outs and overload."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import ROOT
from kit.artifacts import reseal
from kit.processes import HOST, is_free, served

from tuneport.stages.benchmarks.soak.run import SoakConfig, soak
from tuneport.stages.serve import kept_process, supervisor
from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.process import free_port, listen, serve_environment
from tuneport.stages.serve.shared_engine.keeper import EngineKeeper

WITHOUT_STARLETTE = """
import sys
if "tuneport.stages.serve.standalone" in sys.orig_argv:
    sys.modules["starlette.applications"] = None
"""
"""sitecustomize.py: a worker fails at an import, before its own guard, and the supervisor does not."""


@pytest.fixture
def restored_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in supervisor.STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def supervisor_of(artifact: Path, workers: int) -> supervisor.Supervisor:
    engines = EngineKeeper(artifact, 0, artifact, "")
    return supervisor.Supervisor(artifact, listen(HOST, free_port(), 1), workers, engines, stop_limit_s=5)


@pytest.mark.usefixtures("restored_signals")
def test_a_supervisor_gives_up_workers_that_never_become_ready(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "WORKER", "nothing.there")
    monkeypatch.setattr(kept_process, "RESTART_PAUSE_S", 0.0)
    monkeypatch.setattr(supervisor, "POLL_S", 0.01)
    failing = supervisor_of(tiny_artifact, 2)
    failing.run()
    assert failing.failure
    assert "3 workers in a row ended before they were ready, the last with code 1" in str(failing.failure)
    # Three of one number, and up to three of the other, which may start later on a busy machine.
    assert 3 <= capfd.readouterr().err.count("No module named") <= 6


@pytest.mark.usefixtures("restored_signals")
def test_a_worker_that_was_ready_once_is_replaced_again_and_again(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each worker writes its file, as one that is ready does, and ends; the sixth ends the supervisor."""
    monkeypatch.setenv("TUNEPORT_RUN_FOLDER", str(tmp_path))
    monkeypatch.setattr(kept_process, "RESTART_PAUSE_S", 0.0)
    monkeypatch.setattr(supervisor, "POLL_S", 0.01)
    code = (
        "import os, pathlib, signal\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "(folder / f'worker-{os.getpid()}').touch()\n"
        "if len(list(folder.iterdir())) >= 6: os.kill(os.getppid(), signal.SIGTERM)\n"
        "os._exit(1)"
    )
    service = supervisor_of(tiny_artifact, 1)
    monkeypatch.setattr(service._workers[0], "_command", [sys.executable, "-c", code])
    service.run()
    assert service.failure is None
    assert len(list(tmp_path.iterdir())) >= 6


@pytest.mark.slow
def test_a_service_whose_workers_fail_at_an_import_exits_with_the_reason(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_STARLETTE)
    port = free_port()
    done = subprocess.run(
        [sys.executable, "-m", "tuneport", "serve", str(tiny_artifact), "--port", str(port), "--grpc-port", "0"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("import of starlette.applications halted") == supervisor.MAX_FAILED_STARTS
    assert done.stderr.splitlines()[-1].startswith("error: 3 workers in a row ended before they were ready")
    assert is_free(port)


@pytest.mark.slow
@pytest.mark.parametrize("second", ["serve", "supervisor", "bentoml"])
def test_a_second_server_on_a_port_is_refused_and_the_first_goes_on(
    second: str, tiny_artifact: Path, tmp_path: Path
) -> None:
    """The supervisor by itself is what a second `tuneport serve` comes to if both start at the same moment."""
    with served(tiny_artifact, tmp_path / "log") as (_, ports):
        where = ["--host", HOST, "--port", str(ports[0])]
        command = {
            "serve": [sys.executable, "-m", "tuneport", "serve", str(tiny_artifact), *where],
            "supervisor": [sys.executable, "-P", "-m", supervisor.__name__, str(tiny_artifact), *where],
            "bentoml": serve_command(SERVICE, host=HOST, port=ports[0], model=register(tiny_artifact)),
        }[second]
        environment = {**serve_environment(), "TUNEPORT_GRPC_PORT": "0"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode != 0
        assert "in use" in done.stderr
        if second != "bentoml":
            assert done.stderr.splitlines()[-1].startswith(f"error: HTTP cannot listen on {HOST}:{ports[0]}")
        with socket.create_connection((HOST, ports[0]), timeout=10) as client:
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_nothing_is_lost_across_kills_roll_outs_and_overload(tiny_artifact: Path, artifact: Path) -> None:
    reseal(artifact, {"labels": ["one", "two", "three"]})
    config = SoakConfig(
        artifact=tiny_artifact,
        upgrade=artifact,
        variant="fp32",
        requests=500,
        connections=4,
        faults=True,
        fault_interval_s=0.5,
    )
    result = soak(config)
    assert (result.lost, result.wrong) == (0, 0)
    assert result.requests >= 500
    assert len(result.versions) == 2
    assert set(result.faults) == {"worker killed", "roll-out", "overload", "damaged roll-out"}
    assert result.retried


@pytest.mark.slow
def test_a_wrong_answer_is_counted(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuneport.stages.benchmarks.soak import run

    right = run.cases_of(SoakConfig(artifact=tiny_artifact, variant="fp32"))
    wrong = [run.Case(case.value, {name: {"label": "no"} for name in case.expected}) for case in right]
    monkeypatch.setattr(run, "cases_of", lambda _: [*right, *wrong])
    result = soak(SoakConfig(artifact=tiny_artifact, variant="fp32", requests=len(right) * 4, connections=2))
    assert (result.requests, result.wrong, result.lost) == (len(right) * 2, len(right) * 2, 0)
    assert result.growth is not None
