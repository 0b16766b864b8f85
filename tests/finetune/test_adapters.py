"""Bottleneck adapters: they and the head learn, nothing else; the checkpoint is base and adapter, each loadable."""

import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import adapters
import numpy as np
import pytest
import torch
from kit.command import tuneport
from kit.data import read_rows, write_pairs
from kit.encoders import tiny_encoder
from kit.generative import build_causal, build_seq2seq
from kit.texts import pairs
from kit.tokenizers import byte_tokenizer
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

from tuneport.errors import CheckpointError, TuneportError
from tuneport.stages.finetune import optional_packages
from tuneport.stages.finetune.average import average
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.setup import evaluate, load_model, load_trained, make_trainer, prepare
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]


def _load(checkpoint: Path, kind: Any = AutoModelForSequenceClassification) -> Any:
    """What docs/finetuning.md tells others to do."""
    model = kind.from_pretrained(checkpoint)
    adapters.init(model)
    model.load_adapter(str(checkpoint / "adapter"), set_active=True)
    return model.eval()


@pytest.fixture(scope="module")
def config(base: Path, texts_and_labels: Path) -> FinetuneConfig:
    return FinetuneConfig(
        task="text-classification", model=str(base), data=str(texts_and_labels), strategy="adapter", max_length=48,
        adapter_reduction_factor=4, max_steps=30, learning_rate=1e-2, per_device_train_batch_size=8,
        eval_strategy="no", save_strategy="no", report_to=(), bf16=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(config: FinetuneConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run = finetune(config, out)
    assert run.config["strategy"] == "adapter"
    assert run.versions["adapters"] == "1.3.0"
    return out


def test_the_layers_are_bit_identical_and_transformers_alone_loads_them(config: FinetuneConfig, out: Path) -> None:
    before = AutoModel.from_pretrained(config.model).state_dict()
    kind = AutoModelForSequenceClassification
    model, info = kind.from_pretrained(out / "checkpoint", output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__name__ == "BertForSequenceClassification"
    assert "adapters" not in model.config.to_dict()
    after = model.bert.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"pooler.dense.weight", "pooler.dense.bias"}


def test_adapter_and_head_learn_and_nothing_else(config: FinetuneConfig, tmp_path: Path) -> None:
    prepared = prepare(config.model_copy(update={"max_steps": 2}))
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    adapter = {name for name in after if ".adapters.adapter." in name}
    head = {name for name in after if name.startswith(("classifier.", "bert.pooler."))}
    assert len(adapter) == 2 * 4
    assert len(head) == 4
    assert changed == adapter | head


def test_base_and_adapter_give_the_logits_that_were_evaluated(config: FinetuneConfig, out: Path) -> None:
    prepared = prepare(config)
    trainer = make_trainer(prepared, out / "again", load_trained(prepared, out / "checkpoint"))
    logits = trainer.predict(prepared.features["test"]).predictions
    model, tokenizer = _load(out / "checkpoint"), AutoTokenizer.from_pretrained(out / "checkpoint")
    rows = read_rows(Path(config.data) / "test.jsonl")
    feeds = tokenizer([row["text"] for row in rows], truncation=True, max_length=48, padding=True, return_tensors="pt")
    with torch.inference_mode():
        alone = model(**feeds).logits.numpy()
        without = AutoModelForSequenceClassification.from_pretrained(out / "checkpoint").eval()(**feeds).logits.numpy()
    assert np.abs(logits - alone).max() < 1e-5
    assert np.abs(logits - without).max() > 0.01
    named = [model.config.id2label[i] for i in alone.argmax(-1)]
    right = np.mean([name == row["label"] for name, row in zip(named, rows, strict=True)])
    assert right == pytest.approx(evaluate(trainer, prepared, "test").metrics["accuracy"])


def test_a_run_resumes_from_its_checkpoint_to_the_same_weights(config: FinetuneConfig, tmp_path: Path) -> None:
    changes = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "dropout": 0.2}
    config = config.model_copy(update=changes)
    prepared, weights = prepare(config), []
    for name, resume in (("whole", None), ("broken", str(tmp_path / "at-3"))):
        torch.manual_seed(0)
        trainer = make_trainer(prepared, tmp_path / name, load_model(prepared))
        trainer.args.save_total_limit = 2
        trainer.train(resume_from_checkpoint=resume)
        weights.append(trainer.model.state_dict())
        if resume is None:
            shutil.copytree(tmp_path / name / "trainer" / "checkpoint-3", tmp_path / "at-3")
    assert trainer.state.global_step == 6
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_best_checkpoint_is_restored_with_its_adapter(config: FinetuneConfig, tmp_path: Path) -> None:
    changes = {"max_steps": 9, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "learning_rate": 0.3, "optim": "sgd"}
    prepared = prepare(config.model_copy(update={**changes, **best}))
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluate(trainer, prepared, "validation").metrics["loss"] == pytest.approx(min(losses), rel=1e-3)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "deberta-v2", "electra"])
def test_families_that_take_adapters(settings: Settings, tmp_path: Path, family: str) -> None:
    model = tiny_encoder(tmp_path / "base", family)
    finetune(settings(model=str(model), strategy="adapter", max_steps=2), tmp_path / "run")
    loaded = _load(tmp_path / "run" / "checkpoint")
    assert [name for name in loaded.state_dict() if ".adapters.adapter." in name]
    assert loaded.active_adapters.first() == "adapter"


@pytest.mark.parametrize("family", ["modernbert", "xlnet"])
def test_families_that_take_none_are_refused_before_training(settings: Settings, tmp_path: Path, family: str) -> None:
    model = tiny_encoder(tmp_path / "base", family)
    with pytest.raises(CheckpointError, match="takes no adapter") as error:
        finetune(settings(model=str(model), strategy="adapter"), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "checkpoint").exists()


# T5 in adapters 1.3.0 uses an argument's old name.
@pytest.mark.filterwarnings("ignore:`past_key_value` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_with_an_adapter_generates(settings: Settings, tmp_path: Path, family: str) -> None:
    rows = pairs(24)
    data = write_pairs(tmp_path / "data", rows, rows[:4])
    model = build_seq2seq(tmp_path / "base", family)
    config = settings(task="translation", model=str(model), data=str(data), strategy="adapter", max_target_length=12)
    run = finetune(config, tmp_path / "run")
    assert run.metrics["test"].keys() >= {"bleu", "chrf"}
    before = AutoModelForSeq2SeqLM.from_pretrained(model).state_dict()
    loaded = _load(tmp_path / "run" / "checkpoint", AutoModelForSeq2SeqLM)
    after = loaded.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    adapter = [name for name in after if ".adapters.adapter." in name]
    assert len(adapter) == 4 * 4
    written = [loaded.generate(torch.tensor([[5, 6, 1]]), max_length=8, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*written)


def test_a_causal_model_keeps_its_head(settings: Settings, tmp_path: Path) -> None:
    rows = [{"text": "one two three"}] * 12
    data = write_pairs(tmp_path / "data", rows, rows[:2])
    model = build_causal(tmp_path / "base", "llama", byte_tokenizer([row["text"] for row in rows]))
    run = finetune(
        settings(task="text-generation", model=str(model), data=str(data), strategy="adapter"), tmp_path / "run"
    )
    assert run.trained_parameters == 2 * (32 * 2 + 2 + 2 * 32 + 32)


def test_impossible_combinations_are_refused_in_one_line(
    config: FinetuneConfig, out: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TuneportError, match="leave out pooling"):
        settings(strategy="adapter", pooling="mean")
    with pytest.raises(CheckpointError, match="what adapter trains is not in the weights"):
        average([out, out], tmp_path / "mean", allow_repeated_runs=True)
    monkeypatch.setattr(optional_packages, "version", Mock(side_effect=PackageNotFoundError))
    done = tuneport(
        "finetune", "--task", config.task, "--model", config.model, "--data", config.data, "--out", tmp_path / "no",
        "--set", "strategy=adapter", "--set", "report_to=[]",
    )  # fmt: skip
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "tuneport[adapters]" in done.err
    assert not (tmp_path / "no").exists()
