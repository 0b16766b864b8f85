"""Every command of the quick starts and the guides runs, on a tiny model and tiny data; the tutorials as they are.

CI runs the commands of README.md.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import httpx
import pytest
from kit import ROOT
from kit.guides import BLOCK, reader_environment

from tuneport.schema.artifact import Manifest
from tuneport.schema.loading import load_manifest
from tuneport.stages.serve.process import free_port
from tuneport.tasks import all_tasks

DOCS = ROOT / "docs"
QUICK_STARTS = ("index.md", "zh/quickstart.md")
GUIDES = (
    "howto/checkpoint.md", "howto/objective.md", "howto/quantization.md", "howto/upgrade.md", "deployment.md",
    "batch-scoring.md",
)  # fmt: skip
LIVE_UPGRADE = "howto/live-upgrade.md"
TUTORIALS = tuple(f"tutorials/{task}.md" for task in all_tasks())
SHORTER = {
    "finetune": ["--set", "max_length=32"],
    "export": ["--mixed-precision-minutes", "0.05"],
    "bench-endpoint": ["--seconds", "1", "--rounds", "1", "--connections", "1", "--num-inputs", "20"],
}
"""Command → options that a tiny model needs, or that take time away; a later option replaces an earlier one."""

slow = [pytest.mark.slow, pytest.mark.timeout(3000)]


def lines_of(document: str, program: str = "tuneport") -> list[str]:
    """Return the commands of a page that begin with a program's name, each in one line."""
    text = (DOCS / document).read_text(encoding="utf-8")
    return [
        " ".join(line.split())
        for block in BLOCK.findall(text)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith(f"{program} ")
    ]


def commands(document: str) -> list[list[str]]:
    """Return the commands of a page that begin with `tuneport`, as words."""
    lines = lines_of(document)
    assert lines
    return [shlex.split(line)[1:] for line in lines]


def requests_of(document: str) -> list[str]:
    """Return the requests of a page to the service that it starts."""
    return lines_of(document, "curl")


def run(arguments: list[str], folder: Path, checkpoint: Path | None = None, requests: Sequence[str] = ()) -> str:
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
        [sys.executable, "-m", "tuneport", *arguments],
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
    assert process.returncode == 0 or arguments[0] == "serve", f"tuneport {' '.join(arguments)}\n{output}"
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


def prepare(folder: Path, checkpoint: Path, data: Path) -> Path:
    """Lay out what the pages name: demo/data, a checkpoint from elsewhere, and labelled data for it."""
    (folder / "path" / "to").mkdir(parents=True)
    shutil.copytree(data, folder / "demo" / "data")
    (folder / "path" / "to" / "checkpoint").symlink_to(checkpoint)
    (folder / "path" / "to" / "labelled").symlink_to(data)
    datasets.Dataset.from_json(str(data / "test.jsonl")).to_parquet(str(folder / "reviews.parquet"))
    return folder


@pytest.mark.parametrize("document", [pytest.param(each, marks=slow) for each in QUICK_STARTS])
def test_a_quick_start(document: str, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    prepare(tmp_path, tiny_checkpoint, tiny_data)
    for arguments in commands(document):
        run(arguments, tmp_path, tiny_checkpoint, requests_of(document))


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the first two commands of the quick start: runs/news and artifacts/news."""
    folder = prepare(tmp_path_factory.mktemp("guides"), tiny_checkpoint, tiny_data)
    for arguments in commands(QUICK_STARTS[0])[:2]:
        run(arguments, folder, tiny_checkpoint)
    return folder


@pytest.mark.parametrize("document", [pytest.param(each, marks=slow) for each in GUIDES])
def test_a_guide(document: str, exported: Path, tiny_checkpoint: Path) -> None:
    for arguments in commands(document):
        run(arguments, exported, tiny_checkpoint, requests_of(document))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_guide_of_a_live_upgrade(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    """All of its commands, in one shell: the service runs from the first section to the last."""
    prepare(tmp_path, tiny_checkpoint, tiny_data)
    for arguments in commands(QUICK_STARTS[0])[:2]:
        run(arguments, tmp_path, tiny_checkpoint)
    script = "\n".join(BLOCK.findall((DOCS / LIVE_UPGRADE).read_text(encoding="utf-8")))
    done = subprocess.run(
        ["bash", "-e"], input=script.replace("127.0.0.1:3000", f"127.0.0.1:{(port := free_port())}").replace(
            "--grpc-port 0", f"--grpc-port 0 --port {port}"
        ), cwd=tmp_path, env=reader_environment(tmp_path, tiny_checkpoint), capture_output=True, text=True,
        timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{(tmp_path / 'live-upgrade.log').read_text()}"
    [new, old] = re.findall(r"news (\w+) answers all requests\n", done.stdout)
    assert f"news {new} gets copies of requests" in done.stdout
    assert f"news {new} answers 0.1 of the requests" in done.stdout
    assert f"news  {new}  READY  answers 0.1 of the requests" in done.stdout
    assert f'model_version="{new}"' in done.stdout  # of the shadow's counts
    assert re.findall(r'"model":{[^}]*"version":"(\w+)"', done.stdout) == [new, old]


KEYS = ("label", "text", "answer", "entity")
"""Parts of a prediction that another processor does not change; scores it may."""


def parts_of(prediction: Any) -> list[Any]:
    """List the labels and texts of a prediction, in order."""
    return [
        part[key]
        for part in ([prediction] if isinstance(prediction, dict) else prediction)
        for key in KEYS
        if key in part
    ]


def assert_alike(found: Any, shown: Any) -> None:
    """Compare a prediction with that of a page; a regression has nothing but a score, which differs a little."""
    assert parts_of(found) == parts_of(shown)
    if not parts_of(shown):
        assert found == {"score": pytest.approx(shown["score"], abs=0.3)}


def metrics_of(text: str) -> dict[str, dict[str, float]]:
    """Return the metrics of each split that a page shows, or that a training printed."""
    return {
        split: {name: float(value) for name, value in (part.split() for part in line.split(", "))}
        for split, line in re.findall(r"^(validation|test): (.+)$", text, re.M)
    }


def assert_metrics_alike(printed: str, text: str) -> None:
    """Compare the metrics that a training printed with those of its page: another processor rounds otherwise."""
    found, shown = metrics_of(printed), metrics_of(text)
    assert shown.keys() == {"validation", "test"}
    assert {split: [*each] for split, each in found.items()} == {split: [*each] for split, each in shown.items()}
    for split, metrics in shown.items():
        del metrics["loss"]
        assert {name: found[split][name] for name in metrics} == pytest.approx(metrics, abs=0.15), split


def assert_variants_alike(manifest: Manifest, text: str) -> None:
    """Compare the variants of an artifact with those of its page; whether one passes depends on the processor."""
    shown = dict(re.findall(r"^\| ([a-z][a-z0-9-]*)(?: [*†])? \| [^|]+ \| ([\d.]+ MB) \|", text, re.M))
    left_out = re.findall(r"^not in the artifact: ([a-z0-9-]+): ", text, re.M)
    assert shown
    assert {*shown, *left_out} == {each.name for each in (*manifest.variants, *manifest.rejected)}
    assert shown["fp32"] == f"{manifest.variant('fp32').execution.size_bytes / 1e6:.1f} MB"


@pytest.mark.parametrize("document", [pytest.param(each, marks=slow) for each in TUTORIALS])
def test_a_tutorial(document: str, tmp_path: Path) -> None:
    """As it is, with its model and its data; what it prints is what the page shows."""
    for line in lines_of(document, "python docs/tutorials/prepare.py"):
        words = shlex.split(line)
        subprocess.run([sys.executable, ROOT / words[1], *words[2:]], cwd=tmp_path, check=True, timeout=300)
    text = (DOCS / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```json\n(.*?)^```", text, re.M | re.S)
    shown = [json.loads(line) for block in blocks[1:] for line in block.splitlines()]  # the first one is a row
    predicted = []
    for arguments in commands(document):
        output = run(arguments, tmp_path, requests=requests_of(document))
        sys.stdout.write(output)
        if arguments[0] == "finetune":
            assert_metrics_alike(output, text)
        elif arguments[0] == "export":
            assert_variants_alike(load_manifest(tmp_path / arguments[arguments.index("--out") + 1]), text)
        elif arguments[0] == "predict":
            predicted += [json.loads(line) for line in output.splitlines()]
    assert len(predicted) == len(shown) > 0
    for ours, theirs in zip(predicted, shown, strict=True):
        assert_alike(ours, theirs)


def test_every_page_with_commands_is_run() -> None:
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    elsewhere = {"howto/rollout.md"}  # tests/deploy/test_rollout.py
    assert {page for page in pages if lines_of(page)} - elsewhere == {
        *QUICK_STARTS, *GUIDES, *TUTORIALS, LIVE_UPGRADE,
    }  # fmt: skip


def test_requests_are_of_pages_that_start_a_service() -> None:
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if requests_of(str(page.relative_to(DOCS)))}
    # tests/deploy/test_rollout.py, tests/client/test_snippets.py, tests/serve/test_models.py
    elsewhere = {"howto/rollout.md", "clients.md", "deployment.md"}
    for page in pages - elsewhere:
        assert [line for line in lines_of(page) if line.startswith("tuneport serve ")], page
    assert {"zh/quickstart.md", "tutorials/regression.md"} <= pages


def test_a_quick_start_installs_what_its_commands_need() -> None:
    for page in QUICK_STARTS:
        (extras,) = re.findall(r"pip install .*'\.\[(.*)\]'", (DOCS / page).read_text(encoding="utf-8"))
        assert {"all", "cpu", "demo"} <= set(extras.split(","))


def test_the_chinese_pages_show_the_commands_of_the_english_ones() -> None:
    english = {line for page in ("../README.md", "index.md", "howto/checkpoint.md") for line in lines_of(page)}
    for page in ("../README.zh.md", "zh/quickstart.md"):
        lines = [line for line in lines_of(page) if "path/to" not in line]
        assert lines
        assert [line for line in lines if line not in english and line.partition(" --set")[0] not in english] == []
    assert lines_of("index.md") == [line for line in lines_of("zh/quickstart.md") if line in lines_of("index.md")]
