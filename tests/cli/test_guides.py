"""Every command of the quick starts and the guides runs, on a tiny model and tiny data.

CI runs the commands of README.md; test_tutorials.py those of the tutorials.
"""

import re
import shutil
import subprocess
from pathlib import Path

import datasets
import pytest
from kit.data import read_rows, write_rows
from kit.guides import BLOCK, DOCS, TUTORIALS, commands, lines_of, reader_environment, requests_of, run

from tuneport.stages.export.config import MIN_UNLABELLED_ROWS
from tuneport.stages.serve.process import free_port

QUICK_STARTS = ("index.md", "zh/quickstart.md")
GUIDES = (
    "howto/checkpoint.md", "howto/objective.md", "howto/quantization.md", "howto/upgrade.md", "deployment.md",
    "batch-scoring.md",
)  # fmt: skip
LIVE_UPGRADE = "howto/live-upgrade.md"
slow = [pytest.mark.slow, pytest.mark.timeout(3000)]


def prepare(folder: Path, checkpoint: Path, data: Path) -> Path:
    """Lay out what the pages name: demo/data, a checkpoint from elsewhere, and data for it with and without labels."""
    (folder / "path" / "to").mkdir(parents=True)
    shutil.copytree(data, folder / "demo" / "data")
    (folder / "path" / "to" / "checkpoint").symlink_to(checkpoint)
    (folder / "path" / "to" / "labelled").symlink_to(data)
    texts = [row["text"] for row in read_rows(data / "train.jsonl")]
    inputs = [{"text": f"{texts[i % len(texts)]} {i}"} for i in range(MIN_UNLABELLED_ROWS)]
    write_rows(folder / "path" / "to" / "inputs.jsonl", inputs)
    datasets.Dataset.from_json(str(data / "test.jsonl")).to_parquet(str(folder / "reviews.parquet"))
    return folder


@pytest.mark.parametrize("document", [pytest.param(each, marks=slow) for each in QUICK_STARTS])
def test_a_quick_start(document: str, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    prepare(tmp_path, tiny_checkpoint, tiny_data)
    shown = commands(document)
    assert shown
    for arguments in shown:
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
    shown = commands(document)
    assert shown
    for arguments in shown:
        run(arguments, exported, tiny_checkpoint, requests_of(document))
    for arguments in commands(document, "bentoml"):
        run(arguments, exported, program="bentoml")


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


def test_every_page_with_commands_is_run() -> None:
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    elsewhere = {"howto/rollout.md"}  # tests/deploy/test_rollout.py
    assert {page for page in pages if lines_of(page)} - elsewhere == {
        *QUICK_STARTS, *GUIDES, *TUTORIALS, LIVE_UPGRADE,
    }  # fmt: skip
    assert {page for page in pages if lines_of(page, "bentoml")} <= {*GUIDES}


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
