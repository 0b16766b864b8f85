"""Checkpoints that lack something or do not fit their task are refused, in one line that says why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from kit.encoders import FAMILIES, build_checkpoint, tiny_encoder
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertForSequenceClassification

from tuneport.errors import CheckpointError
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.families import load_reference
from tuneport.stages.export.pipeline import export
from tuneport.tasks import task_spec


def save(folder: Path, head: str, family: str = "bert", **changes: Any) -> Path:
    """Save a tiny random model with a head, and its tokenizer."""
    tiny_encoder(folder, family)
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder, **changes)
    getattr(transformers, f"AutoModelFor{head}").from_config(config).save_pretrained(folder)
    return folder


def load(folder: Path, task: str | None = None) -> None:
    """Open and load it as an export does."""
    checkpoint = open_checkpoint(folder, task=task)
    load_reference(checkpoint, task_spec(checkpoint.task).task_class("export")(checkpoint))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sound_one_loads(tmp_path: Path) -> None:
    load(save(tmp_path / "a", "SequenceClassification"))
    load(save(tmp_path / "b", "SequenceClassification", num_labels=1), "regression")


def test_a_head_that_is_not_there_is_not_drawn_at_random(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks 4 of the weights for text-classification, such as bert.pooler"):
        load(save(tmp_path / "a", "MaskedLM"), "text-classification")
    folder = save(tmp_path / "b", "SequenceClassification")
    change_weights(folder, lambda weights: weights.pop("bert.encoder.layer.0.output.dense.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 1 of the weights .* bert.encoder.layer.0.output.dense.weight"):
        load(folder)


def test_layers_that_the_configuration_does_not_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", "SequenceClassification")
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"weights of layers that its config.json does not name"):
        load(folder)
    older = save(tmp_path / "b", "SequenceClassification")
    buffers = {"encoder.layer.0.attention.bias": torch.ones(3), "bert.embeddings.position_ids": torch.ones(3)}
    change_weights(older, lambda weights: weights.update(buffers))
    load(older)


@pytest.mark.parametrize(
    ("head", "task"),
    [
        ("SequenceClassification", "token-classification"),
        ("SequenceClassification", "question-answering"),
        ("TokenClassification", "text-classification"),
        ("QuestionAnswering", "regression"),
    ],
)
def test_a_head_of_another_task(tmp_path: Path, head: str, task: str) -> None:
    with pytest.raises(CheckpointError, match=f"holds BertFor{head}, whose head is for .* and not for {task}"):
        load(save(tmp_path / "a", head), task)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_diverged(tmp_path: Path, value: float) -> None:
    folder = save(tmp_path / "a", "SequenceClassification")
    change_weights(folder, lambda weights: weights["classifier.bias"].fill_(value))
    with pytest.raises(CheckpointError, match=r"holds NaN or infinite values in classifier.bias"):
        load(folder)


def test_labels_with_a_gap(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", "SequenceClassification")
    change_config(folder, id2label={"0": "a", "1": "b", "5": "c"}, label2id={"a": 0, "b": 1, "c": 5})
    with pytest.raises(CheckpointError, match=r"numbers its 3 labels \[0, 1, 5\]; number them from 0"):
        load(folder)


def test_a_tokenizer_that_does_not_fit_the_model(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", "SequenceClassification")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"added{i}" for i in range(5)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"tokens and the model embeds \d+; call model.resize_token_embeddings"):
        load(folder)
    folder = save(tmp_path / "b", "SequenceClassification")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="a tokenizer without a padding token"):
        load(folder)


def test_what_is_no_folder_of_weights(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", "SequenceClassification")
    with pytest.raises(CheckpointError, match=r"config.json is a file; give the folder"):
        load(folder / "config.json")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="is a pointer of git-lfs"):
        load(folder)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def remove_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()


def save_as_pickle(folder: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, safe_serialization=False)


def cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (remove_tokenizer, "has no tokenizer.*save_pretrained"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (save_as_pickle, "only pytorch_model.bin, which can run code when loaded.*safe_serialization"),
        (cut_weights, "cannot be loaded"),
        (lambda folder: build_checkpoint(folder, architecture=BertForMaskedLM), "BertForMaskedLM.*has no task"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], object], problem: str
) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=problem) as caught:
        export(ExportConfig(checkpoint=checkpoint, variants=("fp32",)), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_head_that_does_not_fit_the_task_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    build_checkpoint(checkpoint, labels=("only",))
    assert open_checkpoint(checkpoint).task == "regression"
    config = ExportConfig(checkpoint=checkpoint, task="text-classification", variants=("fp32",))
    with pytest.raises(CheckpointError, match=r"1 label\(s\).*--task regression"):
        export(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_tokens_than_the_model_has_positions_are_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="at most 64 tokens"):
        open_checkpoint(checkpoint, max_length=65)
    assert open_checkpoint(checkpoint, max_length=64).max_length == 64
    assert open_checkpoint(checkpoint).max_length == 64


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_input_is_what_the_positions_of_each_family_allow(family: str, tmp_path: Path) -> None:
    """RoBERTa's positions begin after its padding token; those of XLNet are relative, so the default holds."""
    folder = save(tmp_path, "SequenceClassification", family)
    limit = {"roberta": 65, "distilbert": 512, "xlnet": 512}.get(family, 66)
    assert open_checkpoint(folder).max_length == limit
    with pytest.raises(CheckpointError, match=f"at most {limit} tokens"):
        open_checkpoint(folder, max_length=limit + 1)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        open_checkpoint(tmp_path / "nowhere")
