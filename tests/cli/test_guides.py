"""Every tuneport command of the quick starts and the guides runs, on a tiny model and tiny data."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from kit import ROOT

from tuneport.stages.serve.process import free_port

DOCS = ROOT / "docs"
QUICK_STARTS = ("index.md", "zh/quickstart.md")
GUIDES = ("howto/checkpoint.md", "howto/objective.md", "howto/quantization.md", "howto/upgrade.md")
SHORTER = {
    "finetune": ["--set", "max_length=32"],
    "export": ["--mixed-precision-minutes", "0.05"],
    "bench-endpoint": ["--seconds", "1", "--rounds", "1", "--connections", "1", "--num-inputs", "20"],
}
"""Command → options that a tiny model needs, or that take time away; a later option replaces an earlier one."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def commands(document: str) -> list[list[str]]:
    """Return the commands of a page that begin with `tuneport`, as words."""
    text = (DOCS / document).read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("tuneport ")
    ]
    assert lines
    words = [re.findall(r'"[^"]*"|\S+', line) for line in lines]
    return [[word.strip('"') for word in each[1:]] for each in words]


def run(arguments: list[str], folder: Path, checkpoint: Path) -> None:
    """Run a command in a folder; a service until it is ready."""
    arguments = [str(checkpoint) if word == "minilm-l6" else word for word in arguments]
    arguments += SHORTER.get(arguments[0], [])
    port = free_port()
    if arguments[0] == "serve":
        arguments += ["--port", str(port), "--grpc-port", "0"]
    environment = {**os.environ, "BENTOML_HOME": str(folder / "bentoml"), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tuneport", *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if arguments[0] == "serve":
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        process.terminate()
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0 or arguments[0] == "serve", f"tuneport {' '.join(arguments)}\n{output}"


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


def prepare(folder: Path, checkpoint: Path, data: Path) -> Path:
    """Lay out what the pages name: demo/data, a checkpoint from elsewhere, and labelled data for it."""
    (folder / "path" / "to").mkdir(parents=True)
    shutil.copytree(data, folder / "demo" / "data")
    (folder / "path" / "to" / "checkpoint").symlink_to(checkpoint)
    (folder / "path" / "to" / "labelled").symlink_to(data)
    return folder


@pytest.mark.parametrize("document", QUICK_STARTS)
def test_a_quick_start(document: str, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    prepare(tmp_path, tiny_checkpoint, tiny_data)
    for arguments in commands(document):
        run(arguments, tmp_path, tiny_checkpoint)


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the first two commands of the quick start: runs/news and artifacts/news."""
    folder = prepare(tmp_path_factory.mktemp("guides"), tiny_checkpoint, tiny_data)
    for arguments in commands(QUICK_STARTS[0])[:2]:
        run(arguments, folder, tiny_checkpoint)
    return folder


@pytest.mark.parametrize("document", GUIDES)
def test_a_guide(document: str, exported: Path, tiny_checkpoint: Path) -> None:
    for arguments in commands(document):
        run(arguments, exported, tiny_checkpoint)


def test_every_guide_is_run() -> None:
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert {page for page in pages if page.startswith(("howto/", "zh/"))} == {
        *QUICK_STARTS[1:],
        *GUIDES,
        "howto/extend.md",
        "howto/rollout.md",  # tests/deploy/test_rollout.py
    }
