"""What several test modules of the service use."""

from pathlib import Path

import pytest
from kit.exports import export_tiny
from kit.generative import build_causal
from kit.tokenizers import CHAT_TEMPLATE, byte_tokenizer
from kit.versions import Repository, make_repository


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a chat template, exported from a bare checkpoint: no run, no data."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = byte_tokenizer(["one two three four Größe 🙂"] * 3)
    tokenizer.chat_template = CHAT_TEMPLATE
    build_causal(folder / "llama", "llama", tokenizer)
    return export_tiny(folder / "llama", folder / "artifact", "tiny-chat")


@pytest.fixture(scope="session")
def repository(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A model repository of the tiny model."""
    return make_repository(tmp_path_factory.mktemp("repository"), tiny_artifact)
