"""Checkpoints that cannot be what they are taken for: one line that says why, before anything is proven."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import tiny_encoder

from tuneport.errors import CheckpointError
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.reference import load_reference
from tuneport.stages.export.tasks import task_class
from tuneport.tasks import TaskName


def save(folder: Path, head: str, family: str = "bert", **changes: Any) -> Path:
    """Save a tiny random model with a head, and its tokenizer."""
    tiny_encoder(folder, family)
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder, **changes)
    getattr(transformers, f"AutoModelFor{head}").from_config(config).save_pretrained(folder)
    return folder


def load(folder: Path, task: TaskName | None = None) -> None:
    """Open and load it as an export does."""
    checkpoint = open_checkpoint(folder, task=task)
    load_reference(checkpoint, task_class(checkpoint.task)(checkpoint))


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
def test_a_head_of_another_task(tmp_path: Path, head: str, task: TaskName) -> None:
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
