"""Classifiers and models of scores, exported without a run: predictions equal those of transformers."""

from pathlib import Path

import pytest
import torch
from kit.data import write_splits
from kit.encoders import FAMILIES, tiny_encoder
from kit.exports import export_variants, quick_exports
from kit.untrained import export_untrained, generator, logits_of, text
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tuneport.runtime.predictor import Predictor
from tuneport.runtime.verify import verify
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export


@pytest.mark.parametrize("family", FAMILIES)
def test_classification_of_every_family(family: str, tmp_path: Path) -> None:
    checkpoint, artifact = export_untrained(tmp_path, "text-classification", family)
    predictor = Predictor(artifact)
    values = [text(3), text(80), ""]
    for value, answer in zip(values, predictor.predict(values), strict=True):
        scores = logits_of(checkpoint, "SequenceClassification", value).softmax(-1)
        assert answer["label"] == "abc"[int(scores.argmax())]
        assert answer["score"] == pytest.approx(float(scores.max()), abs=1e-3)
        assert ("truncated" in answer) == (value == values[1])
    assert [name for name, *_ in verify(artifact)] == ["fp32"]


def test_several_labels_are_those_above_one_half_best_first(tmp_path: Path) -> None:
    checkpoint, artifact = export_untrained(tmp_path, "multi-label", "bert")
    predictor = Predictor(artifact)
    values = [text(n) for n in range(1, 12)]
    numbers = set()
    for value, answer in zip(values, predictor.predict(values), strict=True):
        scores = logits_of(checkpoint, "SequenceClassification", value).sigmoid().tolist()
        expected = sorted(((s, label) for s, label in zip(scores, "abc", strict=True) if s >= 0.5), reverse=True)
        assert [each["label"] for each in answer] == [label for _, label in expected]
        assert [each["score"] for each in answer] == pytest.approx([s for s, _ in expected], abs=1e-3)
        numbers.add(len(answer))
    assert len(numbers) > 1
    assert len(predictor.predict(["the"], {"top_k": 3})[0]) == 3
    assert predictor.predict(["the"], {"threshold": 1.0}) == [[]]


def test_a_single_label_below_the_threshold_is_null(tiny_artifact: Path) -> None:
    predictor = Predictor(tiny_artifact)
    best = predictor.predict(["bank"])[0]
    assert predictor.predict(["bank"], {"threshold": best["score"]}) == [best]
    assert predictor.predict(["bank"], {"threshold": 1.0}) == [{**best, "label": None}]


def test_regression_answers_every_target(tmp_path: Path) -> None:
    checkpoint, artifact = export_untrained(tmp_path, "regression", "bert", task="regression")
    value = text()
    answer = Predictor(artifact).predict([value])[0]
    assert answer["score"] == pytest.approx(logits_of(checkpoint, "SequenceClassification", value).tolist(), abs=1e-3)


def test_pairs_of_a_checkpoint_without_a_run_are_found_in_the_data(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "checkpoint")
    options = {"id2label": {0: "no", 1: "yes"}}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint", **options)
    model.save_pretrained(tmp_path / "checkpoint")
    rows = [{"text": text(), "text_pair": text(), "label": generator.choice(["no", "yes"])} for _ in range(30)]
    data = write_splits(tmp_path / "data", train=rows, validation=rows)
    with quick_exports():
        manifest = export_variants(tmp_path / "checkpoint", data, tmp_path / "artifact", "fp32")
    assert manifest.processing.accepts_pairs
    assert {tensor.name for tensor in manifest.inputs} == {"input_ids", "attention_mask", "token_type_ids"}
    predictor = Predictor(tmp_path / "artifact")
    pair = {"text": "anna", "text_pair": "met ben"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    with torch.inference_mode():
        logits = model.eval()(**tokenizer("anna", "met ben", return_tensors="pt")).logits[0]
    assert predictor.predict([pair])[0]["score"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-3)


def test_a_reranker_takes_pairs_and_single_texts_without_data(tmp_path: Path) -> None:
    checkpoint = tiny_encoder(tmp_path / "checkpoint")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1).eval()
    model.classifier.weight.data *= 50
    model.save_pretrained(checkpoint)
    with quick_exports():
        manifest = export(ExportConfig(checkpoint=checkpoint, variants=("fp32",)), tmp_path / "artifact")
    assert manifest.task == "regression"
    assert manifest.processing.accepts_pairs
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = [("anna", "met ben in paris"), ("the film won", None), ("", ""), ("who met ben ?", "anna")]
    with torch.inference_mode():
        # As lists: transformers takes a single empty second text for none.
        columns = [[[text], None if pair is None else [pair]] for text, pair in texts]
        expected = [float(model(**tokenizer(*each, return_tensors="pt")).logits) for each in columns]
    inputs = [text if pair is None else {"text": text, "text_pair": pair} for text, pair in texts]
    scores = [each["score"] for each in Predictor(tmp_path / "artifact").predict(inputs)]
    assert scores == pytest.approx(expected, abs=1e-3)


def test_data_says_what_a_model_of_one_score_takes(tmp_path: Path) -> None:
    checkpoint = tiny_encoder(tmp_path / "checkpoint")
    AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1).save_pretrained(checkpoint)
    rows = [{"text": text(), "score": generator.random()} for _ in range(20)]
    data = write_splits(tmp_path / "data", train=rows, validation=rows)
    with quick_exports():
        manifest = export_variants(checkpoint, data, tmp_path / "artifact", "fp32")
    assert not manifest.processing.accepts_pairs
