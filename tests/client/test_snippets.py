"""Every snippet of docs/clients.md, run against a real service."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kit import ROOT
from kit.encoders import LABELS
from kit.servers import KEY
from kit.serving import LocalService

import tuneport

SHOWN_URL = "http://127.0.0.1:3000"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "docs" / "clients.md").read_text(encoding="utf-8"), re.M | re.S)
PROGRAMS = {
    "bash": ("client.sh", ["bash"]),
    "javascript": ("client.js", ["node"]),
    "java": ("Predict.java", ["java"]),
    "go": ("client.go", ["go", "run"]),
}
"""Language → file of the snippet, and the command that runs it."""


def run(command: list[str], snippet: str, file: Path, url: str) -> str:
    file.write_text(snippet.replace(SHOWN_URL, url).replace("KEY", KEY), encoding="utf-8")
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_snippet_is_run() -> None:
    assert [language for language, _ in BLOCKS] == ["python"] * 3 + [*PROGRAMS]
    assert all(SHOWN_URL in text for _, text in BLOCKS)


@pytest.mark.parametrize(
    "language", [pytest.param(name, marks=[pytest.mark.slow] if name == "go" else []) for name in PROGRAMS]
)
def test_a_snippet_predicts(language: str, addresses: dict[str, str], tmp_path: Path) -> None:
    file, command = PROGRAMS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    printed = json.loads(run(command, dict(BLOCKS)[language], tmp_path / file, addresses["http"]))
    answer = printed["predictions"] if isinstance(printed, dict) else printed
    with tuneport.Client(addresses["http"], api_key=KEY) as client:
        expected = client.predict(["Shares rose"], {"top_k": 2})
    assert [each["label"] for each in answer[0]] == [each["label"] for each in expected[0]]


@pytest.mark.parametrize("index", [0, 1])
def test_a_python_snippet_predicts(index: int, addresses: dict[str, str], tmp_path: Path) -> None:
    printed = run([sys.executable], BLOCKS[index][1], tmp_path / "client.py", addresses["http"])
    assert any(label in printed for label in LABELS)


def test_the_python_snippet_of_a_stream(generator: LocalService, tmp_path: Path) -> None:
    printed = run([sys.executable], BLOCKS[2][1], tmp_path / "client.py", generator.url)
    assert re.search(r"(stop|length)\n$", printed)
