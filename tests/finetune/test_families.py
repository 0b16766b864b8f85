"""Text classification and regression with every family of encoders: trained, saved, loaded by transformers alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kit.data import read_rows
from kit.encoders import FAMILIES, tiny_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_classifies_as_it_was_evaluated(settings: Settings, tmp_path: Path, family: str) -> None:
    base, out = tiny_encoder(tmp_path / "base", family), tmp_path / "run"
    config = settings(model=str(base), bf16=False, learning_rate=1e-2, max_steps=6)
    run = finetune(config, out)
    kind = AutoModelForSequenceClassification
    model, info = kind.from_pretrained(out / "checkpoint", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.id2label == {0: "film", 1: "vote"}
    tokenizer = AutoTokenizer.from_pretrained(out / "checkpoint")
    if family == "distilbert":  # the tests' tokenizer is of no class that would know what the model takes
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    rows = read_rows(Path(config.data) / "test.jsonl")
    right, losses = [], []
    for row in rows:  # one by one: without padding
        feeds = tokenizer(row["text"], truncation=True, max_length=48, return_tensors="pt")
        with torch.inference_mode():
            logits = model.eval()(**feeds).logits
        index = model.config.label2id[row["label"]]
        right.append(int(logits.argmax()) == index)
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor([index]))))
    assert run.metrics["test"]["accuracy"] == pytest.approx(np.mean(right))
    assert run.metrics["test"]["loss"] == pytest.approx(np.mean(losses), abs=1e-4)
