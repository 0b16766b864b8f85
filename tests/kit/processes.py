"""`tuneport serve` as processes of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tuneport.stages.serve.process import free_port
from tuneport.stages.serve.supervision import RUN_FOLDER

HOST = "127.0.0.1"


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


def kill_tree(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process that leads a session, and all that it has started; nothing if they have ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also what a leader that has ended left behind
    process.wait()


def is_ready(port: int) -> bool:
    """Tell whether a service answers 200 at /readyz."""
    try:
        return httpx.get(f"http://{HOST}:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def wait(condition: Callable[[], object], seconds: float, log: Path) -> None:
    """Wait for a condition; an AssertionError with the log after some seconds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.05)


def alive(tree: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that run."""
    return [each for each in tree if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def run_folder(worker: psutil.Process) -> Path:
    """Return the folder that the processes of a worker's service share; other tests run services, too."""
    return Path(worker.environ()[RUN_FOLDER])
