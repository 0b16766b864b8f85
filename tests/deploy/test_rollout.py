"""The roll-out guide: its commands, run one section after the other behind a real nginx, under load."""

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from kit import ROOT
from kit.guides import BLOCK, reader_environment

from tuneport.stages.serve.process import free_port

GUIDE = ROOT / "docs" / "howto" / "rollout.md"
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.M | re.S)
CLIENTS = 4
REQUESTS_A_PHASE = 200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (apt-get install nginx-light)"),
]


class Load:
    """Requests through the proxy, each over a connection of its own, none of them repeated."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[str] = []
        """The version of each answer, or what came instead of it."""
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(CLIENTS)]

    def _send(self) -> None:
        while not self._is_over.is_set():
            try:
                answer = httpx.post(f"{self.url}/predict", json={"inputs": "bank"}, timeout=30)
                self.answers.append(
                    answer.json()["model"]["version"] if answer.status_code == 200 else f"status {answer.status_code}"
                )
            except httpx.HTTPError as error:
                self.answers.append(type(error).__name__)

    def versions(self) -> Counter[str]:
        """Count the versions of the next answers."""
        first = len(self.answers) + CLIENTS  # those that were sent before now
        while len(self.answers) < first + REQUESTS_A_PHASE:
            assert not self._is_over.wait(0.05)
        return Counter(self.answers[first:])

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join()


class Shell:
    """One bash, as the reader of the guide has it."""

    def __init__(self, folder: Path, environment: dict[str, str], ports: dict[str, str]) -> None:
        self._ports = ports
        self.process = subprocess.Popen(
            ["bash", "-e"], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def run(self, section: str) -> str:
        """Run the blocks of a section; returns what they print."""
        [text] = [text for name, text in SECTION.findall(GUIDE.read_text(encoding="utf-8")) if name == section]
        script = "\n".join(BLOCK.findall(text))
        for port, free in self._ports.items():
            script = script.replace(port, free)
        assert script
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{script}\necho; echo end of the section\n")
        self.process.stdin.flush()
        lines: list[str] = []
        for line in self.process.stdout:
            if line == "end of the section\n":
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"{section} failed: {''.join(lines)}")


@pytest.fixture
def shell(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> Iterator[Shell]:
    shutil.copytree(tiny_data, tmp_path / "demo" / "data")
    shutil.copytree(ROOT / "deploy" / "nginx", tmp_path / "deploy" / "nginx")
    ports = {port: str(free_port()) for port in ("3100", "3200", "8080")}
    config = tmp_path / "deploy" / "nginx" / "nginx.conf"
    config.write_text(config.read_text().replace("8080", ports["8080"]))
    environment = reader_environment(tmp_path, tiny_checkpoint)
    first = "tuneport finetune --task text-classification --model minilm-l6 --data demo/data --out runs/news"
    for command in (first, "tuneport export runs/news --out artifacts/news"):
        subprocess.run(command, shell=True, cwd=tmp_path, env=environment, check=True, capture_output=True)
    opened = Shell(tmp_path, environment, ports)
    yield opened
    with contextlib.suppress(OSError):
        os.kill(int((tmp_path / "proxy" / "nginx.pid").read_text()), 15)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(opened.process.pid, 15)
    opened.process.communicate(timeout=60)


def test_a_version_is_rolled_out_and_back_without_a_failed_request(shell: Shell, tmp_path: Path) -> None:
    shell.run("Set up")
    load = Load(f"http://127.0.0.1:{shell._ports['8080']}")
    with load.running():
        [old] = load.versions()
        shell.run("Build")
        assert f'model_version="{old}"' not in shell.run("Canary")
        both = load.versions()
        [new] = both.keys() - {old}
        assert 0.05 < both[new] / both.total() < 0.2
        shell.run("Promote")
        assert set(load.versions()) == {new}
        shell.run("Roll back")
        assert set(load.versions()) == {old}
        shell.run("Stop a version")
        assert set(load.versions()) == {old}
    assert set(load.answers) == {old, new}, Counter(load.answers)
    assert len(load.answers) > 5 * REQUESTS_A_PHASE
    assert "[error]" not in (tmp_path / "proxy" / "error.log").read_text()
