"""The processes of a service end together, and a service that cannot serve ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bentoml
import httpx
import psutil
import pytest
from kit.artifacts import change_byte

from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.process import free_port, serve_environment

HOST = "127.0.0.1"
WITHIN_S = 10.0
COMMAND, SUPERVISOR = 0, 1
HALF_A_REQUEST = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{"


@contextmanager
def served(artifact: Path, log: Path, **settings: str) -> Iterator[tuple[list[psutil.Process], list[int]]]:
    """Run `tuneport serve` in a session of its own; yields its processes, the command first, and its ports."""
    ports = [free_port(), free_port()]
    command = [sys.executable, "-m", "tuneport", "serve", str(artifact), "--port", str(ports[0])]
    environment = {**os.environ, "TUNEPORT_VARIANT": "fp32", "TUNEPORT_GRPC_PORT": str(ports[1]), **settings}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    tree = [psutil.Process(process.pid)]
    try:
        wait(lambda: is_ready(ports[0]) or process.poll() is not None, 90, log)
        assert process.poll() is None, log.read_text()
        tree += tree[0].children(recursive=True)
        yield tree, ports
    finally:
        for each in tree:
            if each.is_running():
                each.kill()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://{HOST}:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def wait(condition: object, seconds: float, log: Path) -> None:
    limit = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.05)


def alive(tree: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in tree if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


@pytest.mark.parametrize(
    "killed", [pytest.param(SUPERVISOR, id="supervisor"), pytest.param(COMMAND, id="command", marks=pytest.mark.slow)]
)
def test_what_is_left_of_a_service_ends_when_its_parent_is_killed(
    killed: int, tiny_artifact: Path, tmp_path: Path
) -> None:
    before = set(Path("/tmp").glob("tuneport-run-*"))
    with served(tiny_artifact, tmp_path / "log", TUNEPORT_DRAIN_S="30") as (tree, ports):
        assert len(tree) >= 3
        tree[killed].kill()
        wait(lambda: all(map(is_free, ports)) and not alive(tree), WITHIN_S, tmp_path / "log")
    assert set(Path("/tmp").glob("tuneport-run-*")) <= before


@pytest.mark.slow
def test_a_closed_terminal_ends_the_service(tiny_artifact: Path, tmp_path: Path) -> None:
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
