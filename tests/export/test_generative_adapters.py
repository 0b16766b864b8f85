"""Adapters beside the weights: bottleneck adapters are exported with the model, prefixes and unmerged LoRA refused."""

import json
from pathlib import Path
from typing import Any

import adapters
import numpy as np
import pytest
import torch
from kit.data import write_pairs, write_rows
from kit.encoders import build_checkpoint
from kit.generative import build_causal, build_seq2seq
from kit.runs import quick_reports
from kit.texts import pairs, random_texts
from kit.tokenizers import byte_tokenizer
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer, BertModel

from tuneport.errors import CheckpointError
from tuneport.modeling.identity import hash_checkpoint
from tuneport.runtime.predictor import Predictor
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune

pytestmark = pytest.mark.usefixtures("_quick_exports")
QUICK = {
    "eval_strategy": "no", "save_strategy": "no", "report_to": [], "bf16": False, "max_steps": 10,
    "learning_rate": 1e-2, "per_device_train_batch_size": 8, "strategy": "adapter", "adapter_reduction_factor": 4,
}  # fmt: skip


def train(folder: Path, **settings: Any) -> Path:
    with quick_reports():
        finetune(load_config(flags={**QUICK, **settings}), folder / "run")
    return folder / "run"


def test_an_encoder_is_exported_with_its_adapter(tmp_path: Path) -> None:
    build_checkpoint(tmp_path / "base", architecture=BertModel)
    texts = [text for text, _ in zip(random_texts(7), range(32), strict=False)]
    rows = [{"text": f"{text} {word}", "label": word} for text, word in zip(texts, ["film", "vote"] * 16, strict=True)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    run = train(tmp_path, task="text-classification", model=str(tmp_path / "base"), data=str(data), max_length=48)
    manifest = export(ExportConfig(checkpoint=run, variants=("fp32",)), tmp_path / "artifact")
    model = AutoModelForSequenceClassification.from_pretrained(run / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(run / "checkpoint")
    without = probabilities(model, tokenizer, texts)
    adapters.init(model)
    model.load_adapter(str(run / "checkpoint" / "adapter"), set_active=True)
    expected = probabilities(model, tokenizer, texts)
    predicted = Predictor(tmp_path / "artifact").predict(texts, {"top_k": 2})
    scores = [{each["label"]: each["score"] for each in prediction} for prediction in predicted]
    predicted_scores = np.array([[each[label] for label in manifest.labels] for each in scores])
    assert np.abs(predicted_scores - expected).max() < 1e-4
    assert np.abs(without - expected).max() > 2e-3
    before = hash_checkpoint(run / "checkpoint")
    weights = max((run / "checkpoint" / "adapter").iterdir(), key=lambda file: file.stat().st_size)
    weights.write_bytes(weights.read_bytes() + b" ")
    assert hash_checkpoint(run / "checkpoint") != before
    with pytest.raises(CheckpointError, match="is not what the run wrote"):
        open_checkpoint(run)


def probabilities(model: Any, tokenizer: Any, texts: list[str]) -> Any:
    with torch.inference_mode():
        feeds = tokenizer(texts, truncation=True, max_length=48, padding=True, return_tensors="pt")
        return torch.softmax(model.eval()(**feeds).logits, -1).numpy()


@pytest.mark.slow
def test_a_generative_model_is_exported_with_its_adapter(tmp_path: Path) -> None:
    base = build_seq2seq(tmp_path / "base", "bart")
    data = write_pairs(tmp_path / "data", pairs(16), pairs(16)[:8])
    run = train(
        tmp_path, task="translation", model=str(base), data=str(data), max_length=32, max_target_length=16, max_steps=60
    )
    manifest = export(ExportConfig(checkpoint=run, variants=("fp32",)), tmp_path / "artifact")
    assert manifest.variants[0].evidence.parity.agreement == 1
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "checkpoint")
    adapters.init(model)
    model.load_adapter(str(run / "checkpoint" / "adapter"), set_active=True)
    tokenizer = AutoTokenizer.from_pretrained(run / "checkpoint")
    texts = [row["source"] for row in pairs(16)[:4]]
    predictor = Predictor(tmp_path / "artifact")
    for text in texts:
        feeds = tokenizer(text, return_tensors="pt")
        ids = model.eval().generate(
            input_ids=feeds["input_ids"], attention_mask=feeds["attention_mask"], max_new_tokens=16
        )[0]
        (answer,) = predictor.predict([text])
        assert answer["text"] == tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_a_prefix_is_refused_with_the_reason(tmp_path: Path) -> None:
    rows = [{"text": f"one two three {word}"} for word in ("one", "two") * 8]
    base = build_causal(tmp_path / "base", "gpt2", byte_tokenizer([row["text"] for row in rows]))
    data = write_rows(tmp_path / "rows.jsonl", rows)
    run = train(
        tmp_path,
        task="text-generation",
        model=str(base),
        data=str(data),
        max_length=32,
        max_steps=1,
        strategy="prefix",
        adapter_reduction_factor=16,
    )
    with pytest.raises(CheckpointError, match=r"holds the prefix .* cannot be part of an ONNX graph; fine-tune with"):
        export(ExportConfig(checkpoint=run), tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_an_adapter_from_elsewhere_must_be_merged_first(tmp_path: Path) -> None:
    build_seq2seq(tmp_path / "marian", "marian")
    (tmp_path / "marian" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match=r"holds a LORA adapter that is not merged.*merge_and_unload"):
        open_checkpoint(tmp_path / "marian")
