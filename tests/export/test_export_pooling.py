"""Pooling heads, exported: predictions equal those of torch."""

from pathlib import Path

import pytest
import torch
from kit.data import write_splits
from kit.encoders import tiny_encoder
from kit.exports import export_variants, quick_exports
from kit.runs import quick_reports
from kit.untrained import MAX_LENGTH, ROWS, text
from transformers import AutoConfig, AutoTokenizer

from tuneport.modeling.heads import PooledClassifier
from tuneport.runtime.predictor import Predictor
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune


def pooled_predictions_equal_torch(checkpoint: Path, artifact: Path) -> None:
    model = PooledClassifier.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    values = [text(3), text(20)]
    with torch.inference_mode():
        expected = [model(**tokenizer(value, return_tensors="pt")).logits[0].softmax(-1) for value in values]
    predictions = Predictor(artifact).predict(values)
    assert [each["score"] for each in predictions] == pytest.approx([float(e.max()) for e in expected], abs=1e-3)


@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        ("bert", "cls"),
        ("bert", "mean"),
        ("distilbert", "attention"),
        # The test below has this one, from its training on; the others differ from those above in the encoder alone.
        pytest.param("bert", "attention", marks=pytest.mark.slow),
        pytest.param("distilbert", "cls", marks=pytest.mark.slow),
        pytest.param("distilbert", "mean", marks=pytest.mark.slow),
    ],
)
def test_pooling_heads_export_like_the_others(family: str, pooling: str, tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base", family)
    torch.manual_seed(2)
    labels = {"id2label": {0: "a", 1: "b", 2: "c"}, "problem_type": "single_label_classification"}
    model = PooledClassifier.from_encoder(
        str(base), pooling, encoder_config=AutoConfig.from_pretrained(base), trust_remote_code=False, **labels
    )
    model.classifier.weight.data *= 50
    model.save_pretrained(tmp_path / "checkpoint")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "checkpoint")
    row = ROWS["text-classification"][1]
    data = write_splits(tmp_path / "data", train=[row()], validation=[row() for _ in range(20)])
    with quick_exports():
        export_variants(tmp_path / "checkpoint", data, tmp_path / "artifact", "fp32")
    pooled_predictions_equal_torch(tmp_path / "checkpoint", tmp_path / "artifact")


def test_a_fine_tuned_pooling_head_is_exported_from_its_run(tmp_path: Path) -> None:
    row = ROWS["text-classification"][1]
    data = write_splits(tmp_path / "data", train=[row() for _ in range(30)], validation=[row() for _ in range(20)])
    settings = ["pooling=attention", "num_train_epochs=1", f"max_length={MAX_LENGTH}", "save_strategy=no"]
    flags = {"task": "text-classification", "model": str(tiny_encoder(tmp_path / "base")), "data": str(data)}
    with quick_reports():
        finetune(load_config(None, settings, flags), tmp_path / "run")
    with quick_exports():
        manifest = export_variants(tmp_path / "run", data, tmp_path / "artifact", "fp32")
    assert manifest.processing.max_length == MAX_LENGTH
    pooled_predictions_equal_torch(tmp_path / "run" / "checkpoint", tmp_path / "artifact")
