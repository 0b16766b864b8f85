"""Real, offline, seeded fixtures: a checkpoint, data, an artifact, a built bento and its server."""
# ruff: noqa: E402 -- the environment must be set before the imports

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

if worker := os.environ.get("PYTEST_XDIST_WORKER", ""):
    # A processor each: threads of two processes that wait for each other by spinning are ten times slower.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# bentoml and huggingface_hub read these when they are imported.
HOME = Path(tempfile.mkdtemp(prefix="tuneport-tests-"))
os.environ |= {
    "BENTOML_HOME": str(HOME / "bentoml"),
    "BENTOML_DO_NOT_TRACK": "true",
    "HF_HOME": str(HOME / "huggingface"),
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}

import httpx
import pytest
from hypothesis import settings
from kit.data import write_data
from kit.encoders import build_checkpoint
from kit.gpu import missing_for_gpu
from kit.servers import Server

from tuneport.schema.artifact import Manifest
from tuneport.schema.loading import load_manifest

# Property tests have the same examples in every run; `make slow` draws new ones (--hypothesis-profile search).
settings.register_profile("search", derandomize=False, deadline=None)
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collections: accelerate makes one for each training, of 0.7 s with it."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (missing := missing_for_gpu()):
        pytest.skip(missing)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: gzip writes the time into them, and all processes must find the same tests."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TUNEPORT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def _quick_exports() -> Iterator[None]:
    """Let exports measure and draw next to nothing."""
    from kit.exports import quick_exports

    with quick_exports():
        yield


@pytest.fixture
def _quick_reports() -> Iterator[None]:
    """Let runs draw no pictures."""
    from kit.runs import quick_reports

    with quick_reports():
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random BERT with three labels, as save_pretrained writes it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    build_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train, validation and test JSONL, labelled by the tiny model itself but for every tenth row."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, tiny_checkpoint)
    return folder


@pytest.fixture(scope="session")
def tiny_artifact(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the real export makes of them: fp32 and int8."""
    from kit.exports import one_round

    from tuneport.stages.export.pipeline import ExportConfig, export

    out = tmp_path_factory.mktemp("artifacts") / "tiny"
    config = ExportConfig(checkpoint=tiny_checkpoint, name="tiny", data=str(tiny_data), variants=("fp32", "int8"))
    with one_round():
        export(config, out)
    return out


@pytest.fixture(scope="session")
def manifest(tiny_artifact: Path) -> Manifest:
    return load_manifest(tiny_artifact)


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a chat template, exported from a bare checkpoint: no run, no data."""
    from kit.exports import export_tiny
    from kit.generative import build_causal
    from kit.tokenizers import CHAT_TEMPLATE, byte_tokenizer

    folder = tmp_path_factory.mktemp("chat")
    tokenizer = byte_tokenizer(["one two three four Größe 🙂"] * 3)
    tokenizer.chat_template = CHAT_TEMPLATE
    build_causal(folder / "llama", "llama", tokenizer)
    return export_tiny(folder / "llama", folder / "artifact", "tiny-chat")


@pytest.fixture
def artifact(tiny_artifact: Path, tmp_path: Path) -> Path:
    """A copy of the tiny artifact that a test may damage."""
    return Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))


@pytest.fixture(scope="session")
def bento_tag(tiny_artifact: Path) -> str:
    from tuneport.stages.serve.bento import build

    return str(build(tiny_artifact).tag)


@pytest.fixture(scope="session")
def server(bento_tag: str) -> Iterator[Server]:
    """The built bento of the tiny artifact, serving fp32."""
    from tuneport.stages.serve.bento import serve_command
    from tuneport.stages.serve.process import free_port, running

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(serve_command(bento_tag, host="127.0.0.1", port=port), url, {"TUNEPORT_VARIANT": "fp32"}) as pid:
        yield Server(url, pid)


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
