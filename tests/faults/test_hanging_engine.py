"""An engine that hangs in its driver: the service stops all the same, within the grace time and some seconds."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from kit import ROOT
from kit.hanging_service import HANG, HOLDS_LOCK
from kit.processes import HOST, alive, is_ready, wait

from tuneport.stages.serve import kept_process
from tuneport.stages.serve.batcher import CLOSE_TIMEOUT_S
from tuneport.stages.serve.kept_process import KeptProcess
from tuneport.stages.serve.lifecycle import FORCED_EXIT_S
from tuneport.stages.serve.process import free_port

IGNORES_SIGTERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(1, flush=True)
time.sleep(99)
"""
GRACE_S = 1
SLOW_MACHINE_S = 10.0


def test_a_process_that_does_not_end_is_killed(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as listening:
        kept = KeptProcess("worker", 1, [sys.executable, "-c", IGNORES_SIGTERM], listening)
        kept.keep_alive()
        process = kept._process
        assert process is not None
        while "1" not in capfd.readouterr().out:
            time.sleep(0.01)
        kept.terminate()
        kept.wait(time.monotonic() + 0.1)
        assert process.returncode == -9
    assert "worker killed" in caplog.messages


@pytest.mark.slow
@pytest.mark.parametrize("holds_lock", ["", "1"], ids=["waits", "holds Python's lock"])
@pytest.mark.parametrize("engines", ["0", "1"])
def test_a_service_whose_engine_hangs_stops(tiny_artifact: Path, tmp_path: Path, engines: str, holds_lock: str) -> None:
    log, hang, port = tmp_path / "log", tmp_path / "hang", free_port()
    command = [sys.executable, "-m", "kit.hanging_service", str(tiny_artifact), "--host", HOST, "--port", str(port)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
        "TUNEPORT_VARIANT": "fp32",
        "TUNEPORT_GRPC_PORT": "0",
        "TUNEPORT_ENGINES": engines,
        "TUNEPORT_SHUTDOWN_GRACE_S": str(GRACE_S),
        HANG: str(hang),
        HOLDS_LOCK: holds_lock,
    }
    with log.open("wb") as out:
        service = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=tmp_path)
    tree = [psutil.Process(service.pid)]
    try:
        wait(lambda: is_ready(port) or service.poll() is not None, 60, log)
        assert service.poll() is None, log.read_text()
        tree += tree[0].children(recursive=True)
        hang.touch()
        request = threading.Thread(target=post, args=(port,))
        request.start()
        time.sleep(1.0)  # the batch begins
        began = time.monotonic()
        service.terminate()
        forced_s = FORCED_EXIT_S + kept_process.STOP_MARGIN_S + kept_process.KILL_TIMEOUT_S
        limit_s = GRACE_S + (2 if engines == "1" else 1) * forced_s + SLOW_MACHINE_S
        wait(lambda: not alive(tree[1:]) and service.poll() is not None, limit_s, log)
        assert time.monotonic() - began > (0 if holds_lock else min(CLOSE_TIMEOUT_S, GRACE_S))
        request.join(30)
        assert not request.is_alive()
    finally:
        for each in alive(tree):
            each.kill()
        service.wait()


def post(port: int) -> None:
    try:
        httpx.post(f"http://{HOST}:{port}/predict", json={"inputs": "bank"}, timeout=60)
    except httpx.TransportError:
        pass
