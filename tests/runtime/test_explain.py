"""Attributions: equal to hiding each word in torch by hand; alone, in pairs, batched, truncated."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.encoders import LABELS, MAX_LENGTH
from kit.reference import TorchReference
from kit.texts import random_texts
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tuneport.runtime import explain
from tuneport.runtime.batch import Batch, EncodedInput, group_by_input
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.runner import EncoderRunner, ModelRunner
from tuneport.runtime.tasks import regression, token_classification
from tuneport.runtime.tasks.text_classification import Parameters, Task
from tuneport.runtime.tokenizer import TextTokenizer
from tuneport.schema.artifact import Processing
from tuneport.schema.loading import load_manifest
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.settings import Settings

TEXTS = [text for text, _ in zip(random_texts(8), range(12), strict=False)]
EXPLAIN = {"explain": True}


class TorchBackend:
    """The tiny checkpoint in torch, in the place of a variant's backend."""

    streams = length_multiple = 1

    def __init__(self, reference: TorchReference) -> None:
        self._model = reference.model

    def run(self, batch: Batch) -> dict[str, Any]:
        feeds = {name: torch.from_numpy(ids) for name, ids in batch.feeds.items()}
        with torch.inference_mode():
            return {"logits": self._model(**feeds).logits.numpy()}


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> TorchReference:
    return TorchReference(tiny_checkpoint)


@pytest.fixture(scope="module")
def predictor(tiny_artifact: Path) -> Predictor:
    return Predictor(tiny_artifact, "fp32")


def make_runner(
    reference: TorchReference, tiny_artifact: Path, folder: Path | None = None, **changes: Any
) -> ModelRunner:
    processing = Processing(
        max_length=MAX_LENGTH, pad_token_id=0, **{"problem_type": "single_label_classification", **changes}
    )
    task = Task(LABELS, processing, TextTokenizer((folder or tiny_artifact) / "tokenizer.json", processing))
    execution = load_manifest(tiny_artifact).variant("fp32").execution
    return EncoderRunner(task, TorchBackend(reference), execution, processing)


def answer(runner: ModelRunner, values: Sequence[Any], **options: Any) -> list[Any]:
    parameters = Parameters(explain=True, **options)
    parsed_inputs = [runner.task.parse_input(value) for value in values]
    windows = runner.task.encode_request(parsed_inputs, parameters)
    results = group_by_input(runner.run([row for rows in windows for row in rows]), windows)
    return [runner.task.decode(*part, parameters) for part in zip(parsed_inputs, windows, results, strict=True)]


def by_hand(reference: TorchReference, *texts: str, size: int = 1) -> tuple[list[tuple[str, int, int]], list[float]]:
    """Hide each word (each `size` words) of a text or pair in torch; what of them it saw, and what each is worth."""
    tokenizer = reference.tokenizer
    feeds = tokenizer(
        *texts, truncation=True, max_length=MAX_LENGTH, return_tensors="pt", return_offsets_mapping=True, verbose=False
    )
    offsets, sequences = feeds.pop("offset_mapping")[0].tolist(), feeds.sequence_ids(0)

    def probabilities(ids: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return torch.softmax(reference.model(**{**feeds, "input_ids": ids}).logits[0], -1)

    whole = probabilities(feeds["input_ids"])
    words, drops = [], []
    for field, text in enumerate(texts):
        spans = [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]
        for at in range(0, len(spans), size):
            start, end = spans[at][0], spans[at : at + size][-1][1]
            ids = feeds["input_ids"].clone()
            hit = [i for i, (a, b) in enumerate(offsets) if sequences[i] == field and a >= start and b <= end]
            if not hit:  # beyond the cut
                continue
            ids[0, hit] = tokenizer.mask_token_id
            words.append((text[start:end], start, end))
            drops.append(float((whole - probabilities(ids))[whole.argmax()]))
    return words, drops


def assert_explains(prediction: dict[str, Any], words: list[tuple[str, int, int]], drops: list[float]) -> None:
    found = prediction["explanation"]
    assert [(each["text"], each["start"], each["end"]) for each in found] == words
    assert [each["score"] for each in found] == pytest.approx(drops, abs=1e-4)


def test_each_word_is_worth_what_hiding_it_costs(predictor: Predictor, reference: TorchReference) -> None:
    predictions = predictor.predict(TEXTS, EXPLAIN)
    plain = predictor.predict(TEXTS)
    for text, prediction, unexplained in zip(TEXTS, predictions, plain, strict=True):
        assert_explains(prediction, *by_hand(reference, text))
        assert prediction["label"] == unexplained["label"]
        assert prediction["score"] == pytest.approx(unexplained["score"], abs=1e-5)
        assert "explanation" not in unexplained
    drops = [each["score"] for prediction in predictions for each in prediction["explanation"]]
    assert max(drops) > 0.05
    assert min(drops) < 0


def test_the_most_telling_word_changes_the_answer_most(predictor: Predictor, reference: TorchReference) -> None:
    (prediction,) = predictor.predict(TEXTS[2:3], EXPLAIN)
    best = max(prediction["explanation"], key=lambda each: each["score"])
    words, drops = by_hand(reference, TEXTS[2])
    assert (best["text"], best["start"], best["end"]) == words[int(np.argmax(drops))]


def test_both_texts_of_a_pair_are_explained(reference: TorchReference, tiny_artifact: Path) -> None:
    model = make_runner(reference, tiny_artifact, accepts_pairs=True)
    (prediction,) = answer(model, [{"text": "the bank fell.", "text_pair": "good music, the game"}])
    assert_explains(prediction, *by_hand(reference, "the bank fell.", "good music, the game"))
    assert [each["field"] for each in prediction["explanation"]] == ["text"] * 4 + ["text_pair"] * 5


def test_words_beyond_the_cut_are_not_explained(predictor: Predictor, reference: TorchReference) -> None:
    text = "bank fell when the team won. " * 20
    (prediction,) = predictor.predict([text], EXPLAIN)
    assert prediction["truncated"] is True
    assert len(prediction["explanation"]) == MAX_LENGTH - 2
    assert_explains(prediction, *by_hand(reference, text))


@pytest.mark.parametrize("text", ["", " \t", "?", "Größe 🙂 世界 e\u0301"])
def test_odd_texts_are_explained_in_their_own_characters(predictor: Predictor, text: str) -> None:
    (prediction,) = predictor.predict([text], EXPLAIN)
    for each in prediction["explanation"]:
        assert each["text"] == text[each["start"] : each["end"]]
        assert each["text"].strip()
    assert bool(prediction["explanation"]) == bool(text.strip())


def test_a_text_of_many_words_is_explained_by_runs_of_words(
    reference: TorchReference, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "MAX_PIECES", 4)
    text = "shares of the bank fell when the vote was late"
    (prediction,) = answer(make_runner(reference, tiny_artifact), [text])
    assert len(prediction["explanation"]) == 4
    assert_explains(prediction, *by_hand(reference, text, size=3))


def test_top_k_explains_each_label(reference: TorchReference, tiny_artifact: Path) -> None:
    (labels,) = answer(make_runner(reference, tiny_artifact), [TEXTS[2]], top_k=3)
    drops = np.array([[each["score"] for each in label["explanation"]] for label in labels])
    assert len(labels) == 3
    assert drops.sum(0) == pytest.approx(0, abs=1e-5)  # what one label loses the others win
    assert_explains(labels[0], *by_hand(reference, TEXTS[2]))


def test_several_labels_are_explained_on_their_own(reference: TorchReference, tiny_artifact: Path) -> None:
    runner = make_runner(reference, tiny_artifact, problem_type="multi_label_classification")
    (labels,) = answer(runner, [TEXTS[2]], threshold=0.0)
    assert {label["label"] for label in labels} == set(LABELS)
    assert all(len(label["explanation"]) == len(labels[0]["explanation"]) > 0 for label in labels)


def test_a_model_that_abstains_explains_its_best_guess(predictor: Predictor, reference: TorchReference) -> None:
    (prediction,) = predictor.predict([TEXTS[2]], {"explain": True, "threshold": 1.0})
    assert prediction["label"] is None
    assert_explains(prediction, *by_hand(reference, TEXTS[2]))


def test_without_a_mask_token_the_word_s_tokens_go(
    reference: TorchReference, tiny_artifact: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_artifact / "tokenizer.json"))
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str().replace("[MASK]", "[NONE]"), encoding="utf-8")
    runner = make_runner(reference, tiny_artifact, tmp_path)
    text = "the bank fell"
    rows = runner.task.encode_request([text], Parameters(explain=True))[0]
    ids = rows[0].ids
    assert [row.ids for row in rows[1:]] == [[ids[0], *ids[2:]], [*ids[:2], *ids[3:]], [*ids[:3], *ids[4:]]]
    (prediction,) = answer(runner, [text])
    left = TorchReference.logits(reference, ["bank fell", "the fell", "the bank", text])
    probabilities = torch.softmax(torch.tensor(left), -1).numpy()
    drops = (probabilities[3] - probabilities[:3])[:, probabilities[3].argmax()]
    assert [each["score"] for each in prediction["explanation"]] == pytest.approx(drops.tolist(), abs=1e-4)


def test_explanations_among_other_requests_change_nothing(predictor: Predictor) -> None:
    """One batcher for all: explained and plain requests share batches, and nobody gets another's rows."""
    alone = [predictor.predict([text], EXPLAIN)[0] for text in TEXTS]
    plain = predictor.predict(TEXTS)

    async def together() -> list[Any]:
        inference = Inference(predictor, Settings())
        requests = [inference.run([text], EXPLAIN) for text in TEXTS] + [inference.run([text]) for text in TEXTS]
        results = await asyncio.gather(*requests)
        inference.close()
        return [result.prediction for (result,) in results]

    mixed = asyncio.run(together())
    for ours, expected in zip(mixed, [*alone, *plain], strict=True):
        assert ours.keys() == expected.keys()
        assert ours["label"] == expected["label"]
        assert ours["score"] == pytest.approx(expected["score"], abs=1e-5)
        scores, others = ([each["score"] for each in one.get("explanation", [])] for one in (ours, expected))
        assert scores == pytest.approx(others, abs=1e-4)


def test_a_task_that_cannot_explain_refuses_the_parameter() -> None:
    for module in (regression, token_classification):
        assert "explain" not in module.Parameters.model_fields


def test_byte_level_tokens_belong_to_the_word_behind_their_space() -> None:
    """GPT-2's kind keeps the space before a word in its token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "été, the  bank 世界"  # whose two last characters become one token
    trainer = trainers.BpeTrainer(
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), vocab_size=300, show_progress=False
    )
    tokenizer.train_from_iterator([text] * 3, trainer)
    encoding = tokenizer.encode(text)
    row = EncodedInput(encoding.ids, encoding.type_ids, False, encoding)
    found = explain.pieces(text, row)
    assert [text[each.start : each.end] for each in found] == ["été", ",", "the", "bank", "世界"]
    positions = [position for each in found for position in each.positions]
    assert positions == sorted(set(positions))
    assert len(positions) >= len(row) - 1  # all but a space of its own
