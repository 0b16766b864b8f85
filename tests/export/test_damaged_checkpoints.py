"""Damaged and odd checkpoints: an error of one line that says what is wrong, and no folder; or an artifact."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kit.command import assert_one_line, tuneport, without_progress
from kit.exports import quick_exports

from tuneport.errors import InputError
from tuneport.runtime.predictor import Predictor

CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"
CHANGES: tuple[tuple[str, dict[str, Any], str], ...] = (
    (CONFIG, {"hidden_size": "32"}, "cannot be loaded"),
    (CONFIG, {"hidden_size": 0}, "cannot be loaded"),
    (CONFIG, {"num_attention_heads": 0}, "cannot be loaded"),
    (CONFIG, {"num_hidden_layers": None}, "cannot be loaded"),
    (CONFIG, {"max_position_embeddings": "many"}, "cannot be loaded"),
    (CONFIG, {"pad_token_id": 9999}, "cannot be loaded"),
    (CONFIG, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "cannot be loaded"),
    (CONFIG, {"id2label": {"0": "a", "1": "a", "2": "b"}}, "has several labels named 'a'"),
    (CONFIG, {"chunk_size_feed_forward": 4}, "bert fails on 2 inputs of 10 tokens"),
    (CONFIG, {"return_dict": False}, "bert fails on 2 inputs of 10 tokens"),
    (TOKENIZER, {"model_max_length": -1}, "model_max_length is -1"),
    (TOKENIZER, {"model_max_length": 2}, "special tokens alone take 2"),
    (TOKENIZER, {"model_max_length": "long"}, "model_max_length is 'long'"),
    (TOKENIZER, {"truncation_side": "left"}, "truncates on the left"),
)
FILES = (
    (CONFIG, b"", "cannot be loaded"),
    (CONFIG, b"[]", "cannot be loaded"),
    ("tokenizer.json", b"{}", "cannot be loaded"),
    ("model.safetensors", b"\xff" * 100, "cannot be loaded"),
    ("adapter_config.json", b"{", "holds a damaged adapter"),
    ("run.json", b"{", "run.json cannot be read"),
    ("run.json", b"{}", "run.json is not the record of a run of this version"),
)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "größe 模型 (1)"))


def assert_refused(checkpoint: Path, words: str) -> None:
    out = checkpoint.parent / "artifact"
    answer = tuneport("export", checkpoint, "--out", out, "--variants", "fp32")
    assert answer.code == 1
    assert answer.out == ""
    assert_one_line(without_progress(answer.err), words)
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.parametrize(("file", "changes", "words"), CHANGES)
def test_a_wrong_setting_is_one_line(checkpoint: Path, file: str, changes: dict[str, Any], words: str) -> None:
    change(checkpoint / file, **changes)
    assert_refused(checkpoint, words)


@pytest.mark.parametrize(("file", "content", "words"), FILES)
def test_a_damaged_file_is_one_line(checkpoint: Path, file: str, content: bytes, words: str) -> None:
    (checkpoint / file).write_bytes(content)
    assert_refused(checkpoint, words)


def test_a_tokenizer_without_its_unknown_token_is_one_line(checkpoint: Path) -> None:
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"] = {"[PAD]": 0, "[CLS]": 2, "[SEP]": 3}
    change(checkpoint / "tokenizer.json", model=content["model"], added_tokens=[])
    assert_refused(checkpoint, "has a tokenizer that cannot")


def test_a_tokenizer_without_special_tokens_is_exported_and_an_empty_text_refused(checkpoint: Path) -> None:
    change(checkpoint / "tokenizer.json", post_processor=None)
    out = checkpoint.parent / "artifact"
    with quick_exports():
        answer = tuneport("export", checkpoint, "--out", out, "--variants", "fp32")
    assert answer.code == 0, answer.err
    predictor = Predictor(out)
    assert predictor.predict(["film"])[0]["label"]
    with pytest.raises(InputError, match="an input has no tokens"):
        predictor.predict(["film", ""])
