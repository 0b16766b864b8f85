"""The commands of the documents, and how a test runs them as a reader does."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from tuneport.stages.serve.process import free_port
from tuneport.tasks import all_tasks

from . import ROOT

DOCS = ROOT / "docs"
TUTORIALS = tuple(f"tutorials/{task}.md" for task in all_tasks())
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)
WRAPPER = """#!{python}
import os, sys
words = ["{checkpoint}" if word == "minilm-l6" else word for word in sys.argv[1:]]
shorter = {{"finetune": ["--set", "max_length=32"], "export": ["--mixed-precision-minutes", "0.05"]}}
os.execv("{python}", ["{python}", "-m", "tuneport", *words, *shorter.get(words[0], [])])
"""


def reader_environment(folder: Path, checkpoint: Path) -> dict[str, str]:
    """Write a program `tuneport` that puts a checkpoint in the place of the embedded model; returns its environment."""
    program = folder / "bin" / "tuneport"
    program.parent.mkdir()
    program.write_text(WRAPPER.format(python=sys.executable, checkpoint=checkpoint))
    program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "BENTOML_HOME": str(folder / "bentoml"),
        "PYTHONWARNINGS": "ignore",
        "TUNEPORT_VARIANT": "fp32",
    }


SHORTER = {
    "finetune": ["--set", "max_length=32"],
    "export": ["--mixed-precision-minutes", "0.05"],
    "bench-endpoint": ["--seconds", "1", "--rounds", "1", "--connections", "1", "--num-inputs", "20"],
}
"""Command → options that a tiny model needs, or that take time away; a later option replaces an earlier one."""


def lines_of(document: str, program: str = "tuneport") -> list[str]:
    """Return the commands of a page that begin with a program's name, each in one line."""
    text = (DOCS / document).read_text(encoding="utf-8")
    return [
        " ".join(line.split())
        for block in BLOCK.findall(text)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith(f"{program} ")
    ]


def commands(document: str, program: str = "tuneport") -> list[list[str]]:
    """Return the arguments that a page gives to a program, as words."""
    return [shlex.split(line)[1:] for line in lines_of(document, program)]


def requests_of(document: str) -> list[str]:
    """Return the requests of a page to the service that it starts."""
    return lines_of(document, "curl")


def run(
    arguments: list[str], folder: Path, checkpoint: Path | None = None, requests: Sequence[str] = (),
    program: str = "tuneport",
) -> str:  # fmt: skip
    """Run a command in a folder, a service until it has answered the `requests`, and return what it printed.

    With a `checkpoint` that is the embedded model, and the command is made shorter.
    """
    if checkpoint:
        arguments = [str(checkpoint) if word == "minilm-l6" else word for word in arguments]
        arguments += SHORTER.get(arguments[0], [])
    port = free_port()
    if arguments[0] == "serve":
        arguments += ["--port", str(port), "--grpc-port", "0"]
    environment = {**os.environ, "BENTOML_HOME": str(folder / "bentoml"), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if arguments[0] == "serve":
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", process)
            for line in requests:
                ask = shlex.split(line.replace("http://127.0.0.1:3000", f"http://127.0.0.1:{port}"))
                ask += ["--silent", "--fail-with-body"]
                done = subprocess.run(ask, cwd=folder, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{line}\n{done.stdout}"
        finally:
            process.terminate()
    output, _ = process.communicate(timeout=1500)
    assert process.returncode == 0 or arguments[0] == "serve", f"{program} {' '.join(arguments)}\n{output}"
    return output


def wait_until_ready(url: str, process: "subprocess.Popen[str]") -> None:
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        assert process.poll() is None, process.communicate()[0]
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError("the service is not ready")
