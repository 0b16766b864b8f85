"""A checkpoint that we have pooled is loaded again as what it is: as a base model, to average, to label more rows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit.data import read_rows, write_rows
from kit.encoders import tiny_encoder
from kit.exports import export_variants, quick_exports
from kit.generative import nested_byte_level
from safetensors.torch import load_file

from tuneport.modeling.heads import PooledClassifier
from tuneport.stages.finetune.average import average
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.setup import evaluate, load_model, make_trainer, prepare
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]


@pytest.fixture
def out(settings: Settings, tmp_path: Path) -> Path:
    finetune(settings(pooling="attention"), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("pooling", ["default", "attention"])
def test_it_is_a_base_model_with_its_head(settings: Settings, out: Path, pooling: str) -> None:
    model = load_model(prepare(settings(model=str(out / "checkpoint"), pooling=pooling, dropout=0.3)))
    assert isinstance(model, PooledClassifier)
    assert model.config.pooling == "attention"
    assert model.dropout.p == 0.3
    saved = load_file(out / "checkpoint" / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in saved.items())


def test_its_encoder_may_be_pooled_otherwise_and_get_other_labels(
    settings: Settings, out: Path, tmp_path: Path
) -> None:
    source = Path(settings().data)
    for split in ("train", "validation"):
        rows = read_rows(source / f"{split}.jsonl")
        (tmp_path / "three").mkdir(exist_ok=True)
        write_rows(tmp_path / "three" / f"{split}.jsonl", [{**row, "label": i % 3} for i, row in enumerate(rows)])
    config = settings(model=str(out / "checkpoint"), pooling="mean", data=str(tmp_path / "three"))
    model = load_model(prepare(config))
    assert (model.config.pooling, model.config.num_labels, model.attention) == ("mean", 3, None)
    saved = load_file(out / "checkpoint" / "model.safetensors")
    name = "encoder.encoder.layer.0.output.dense.weight"
    assert torch.equal(saved[name], model.state_dict()[name])


def test_pooled_runs_are_averaged(settings: Settings, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "copy")
    done = average([out, tmp_path / "copy"], tmp_path / "mean")
    prepared = prepare(settings(model=str(out / "checkpoint"), pooling="attention"))
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    assert done.weights["test"] == pytest.approx(evaluate(trainer, prepared, "test").metrics)


def test_a_pooled_teacher_labels_rows(settings: Settings, tmp_path: Path) -> None:
    rows = [{"text": row["text"]} for row in read_rows(Path(settings().data) / "test.jsonl")]
    file = write_rows(tmp_path / "more.jsonl", rows)
    config = settings(pooling="cls", pseudo_label_data=str(file), pseudo_label_threshold=0.1)
    assert finetune(config, tmp_path / "run").train_rows == 48 + 16


@pytest.mark.parametrize(("family", "position"), [("bert", "first"), ("xlnet", "last"), ("llama", "last")])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_cls_pooling_takes_the_token_that_stands_for_the_text(
    settings: Settings, tmp_path: Path, family: str, position: str, padding_side: str
) -> None:
    base = nested_byte_level(tmp_path / "base") if family == "llama" else tiny_encoder(tmp_path / "base", family)
    prepared = prepare(settings(model=str(base), pooling="cls"))
    model = load_model(prepared).eval()
    assert model.config.cls_position == position
    prepared.processor.padding_side = padding_side
    feeds = prepared.processor(["the film", "a b c d e f"], padding=True, return_tensors="pt")
    feeds.pop("token_type_ids", None)
    with torch.inference_mode():
        states, logits = model.encoder(**feeds).last_hidden_state, model(**feeds).logits
        for row, mask in enumerate(feeds["attention_mask"].bool()):
            expected = model.classifier(states[row][mask][0 if position == "first" else -1])
            torch.testing.assert_close(logits[row], expected)


def test_cls_pooling_of_xlnet_is_exported(settings: Settings, tmp_path: Path) -> None:
    config = settings(model=str(tiny_encoder(tmp_path / "base", "xlnet")), pooling="cls")
    finetune(config, tmp_path / "run")
    with quick_exports():
        manifest = export_variants(tmp_path / "run", Path(config.data), tmp_path / "artifact", "fp32")
    assert manifest.variant("fp32").evidence.parity.agreement == 1
