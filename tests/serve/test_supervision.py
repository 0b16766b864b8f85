"""The processes of a service end together, and a service that cannot serve ends."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bentoml
import psutil
import pytest
from kit.artifacts import change_byte
from kit.processes import HOST, alive, is_free, is_ready, run_folder, served, wait

from tuneport.stages.serve import supervision
from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.process import free_port, serve_environment

WITHIN_S = 10.0
COMMAND, SUPERVISOR = 0, 1
HALF_A_REQUEST = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{"


@pytest.mark.parametrize(
    "killed", [pytest.param(SUPERVISOR, id="supervisor"), pytest.param(COMMAND, id="command", marks=pytest.mark.slow)]
)
def test_what_is_left_of_a_service_ends_when_its_parent_is_killed(
    killed: int, tiny_artifact: Path, tmp_path: Path
) -> None:
    with served(tiny_artifact, tmp_path / "log", TUNEPORT_DRAIN_S="30") as (tree, ports):
        assert len(tree) >= 3
        folder = run_folder(tree[-1])
        assert folder.is_dir()
        tree[killed].kill()
        wait(lambda: all(map(is_free, ports)) and not alive(tree), WITHIN_S, tmp_path / "log")
    assert not folder.exists()


@pytest.mark.slow
def test_a_closed_terminal_ends_the_service(tiny_artifact: Path, tmp_path: Path) -> None:
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        pytest.skip("the tests were started by nohup, and so is the service")
    with served(tiny_artifact, tmp_path / "log") as (tree, _):
        os.killpg(tree[COMMAND].pid, signal.SIGHUP)
        wait(lambda: not alive(tree), WITHIN_S, tmp_path / "log")


@pytest.mark.slow
def test_a_second_ctrl_c_skips_the_drain_and_the_active_requests(tiny_artifact: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with served(tiny_artifact, log, TUNEPORT_DRAIN_S="60") as (tree, ports):
        with socket.create_connection((HOST, ports[0])) as client:
            client.sendall(HALF_A_REQUEST)
            # SIGTERM, which means the same: a test run in the background was started with SIGINT ignored.
            tree[COMMAND].terminate()
            wait(lambda: '"stopping"' in log.read_text(), WITHIN_S, log)
            time.sleep(3.2)  # one that follows at once is the same Ctrl-C
            tree[COMMAND].terminate()
            wait(lambda: not alive(tree), WITHIN_S, log)
    assert "Traceback" not in log.read_text()
    assert "Aborted" not in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["graph", "manifest", "tokenizer", "missing"])
def test_a_copy_in_the_store_that_is_damaged_later_ends_the_service(
    damage: str, artifact: Path, tmp_path: Path
) -> None:
    """The worker that is started again after a crash finds it; nobody would answer on the open port."""
    tag, log, port = register(artifact), tmp_path / "log", free_port()
    stored = Path(bentoml.models.get(tag).path)
    environment = {**serve_environment(), "TUNEPORT_VARIANT": "fp32", "TUNEPORT_GRPC_PORT": "0"}
    with log.open("wb") as out:
        command = serve_command(SERVICE, host=HOST, port=port, model=tag)
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=tmp_path)
    try:
        wait(lambda: is_ready(port), 90, log)
        file = {"graph": "onnx/fp32/model.onnx", "manifest": "manifest.json", "tokenizer": "tokenizer.json"}
        if damage == "missing":
            bentoml.models.delete(tag)
        else:
            change_byte(stored / file[damage])
        [worker] = [
            each
            for each in psutil.Process(process.pid).children(recursive=True)
            if "_bentoml_impl.worker.service" in each.cmdline()
        ]
        worker.kill()
        wait(lambda: process.poll() is not None, 60, log)
        assert is_free(port)
    finally:
        process.kill()
        process.wait()
        if damage != "missing":
            bentoml.models.delete(tag)


def test_folders_of_dead_supervisors_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, sys\n"
        "from tuneport.stages.serve import supervision\n"
        "print(supervision.prepare_supervisor(), flush=True)\n"
        "sys.stdin.read()\n"
        "os._exit(0)"
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        folder = Path(process.stdout.readline().strip())
        (folder / "metrics").mkdir()
        supervision.remove_abandoned_folders()
        assert folder.is_dir()
        process.kill()
    supervision.remove_abandoned_folders()
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_fails_prints_its_reason_once(tiny_artifact: Path, tmp_path: Path) -> None:
    same_name = shutil.copytree(tiny_artifact, tmp_path / "same")
    command = [
        sys.executable,
        "-m",
        "tuneport",
        "serve",
        str(tiny_artifact),
        str(same_name),
        "--port",
        str(free_port()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("are both named tiny") == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
