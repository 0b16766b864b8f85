"""A folder of a user whose scripts have the names of the stages; importing one raises."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from tuneport.stages.serve.process import free_port

NAMES = ("finetune", "export", "serve", "benchmarks", "tests")


def write_hostile_modules(folder: Path) -> Path:
    """Write finetune.py, export.py and so on that raise when they are imported; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / f"{name}.py").write_text(f'raise RuntimeError("{name}.py of the user was imported")\n')
    return folder


def ask_server(folder: Path, command: Sequence[str]) -> str:
    """Start a server in a folder, ask it once, stop it, and return the label of its answer."""
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                response = httpx.post(f"http://127.0.0.1:{port}/predict", json={"inputs": "bank"})
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            return str(response.json()["predictions"][0]["label"])
        raise AssertionError((folder / "log").read_text()[-2000:])
    finally:
        process.terminate()
        process.wait(30)
