"""Every encoder task and family, from a checkpoint to answers: what serves says what transformers says."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import FAMILIES, WORDS, tiny_encoder, write_splits
from transformers import AutoTokenizer

from tuneport.errors import DataError, InputError
from tuneport.modeling.heads import PooledClassifier
from tuneport.runtime.verify import verify
from tuneport.stages.export.pipeline import ExportConfig, export
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune
from tuneport.stages.serve.predictor import Predictor
from tuneport.stages.serve.settings import Settings

LONGEST = 32
BYTE_LEVEL = ("roberta", "modernbert")
NO_TYPES = ("distilbert", "modernbert")
chance = random.Random(5)


def text(words: int = 12) -> str:
    return " ".join(chance.choices(WORDS[:40], k=words))


def question_row() -> dict[str, Any]:
    context = text(60)
    answer = context.split()[7]
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"question": text(4), "context": context, "answers": answers}


def tagged_row(words: int = 12) -> dict[str, Any]:
    tokens = text(words).split()
    return {"tokens": tokens, "tags": chance.choices(["O", "B-X", "I-X", "B-Y"], k=len(tokens))}


ROWS: dict[str, tuple[str, Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "text-classification": ("SequenceClassification", lambda: {"text": text(), "label": chance.choice("abc")},
                            {"id2label": {0: "a", 1: "b", 2: "c"}}),
    "multi-label": ("SequenceClassification", lambda: {"text": text(), "labels": chance.sample("abc", 2)},
                    {"id2label": {0: "a", 1: "b", 2: "c"}, "problem_type": "multi_label_classification"}),
    "regression": ("SequenceClassification", lambda: {"text": text(), "score": [chance.random(), chance.random()]},
                   {"num_labels": 2, "problem_type": "regression"}),
    "token-classification": ("TokenClassification", tagged_row,
                             {"id2label": {0: "O", 1: "B-X", 2: "I-X", 3: "B-Y"}}),
    "question-answering": ("QuestionAnswering", question_row, {}),
}  # fmt: skip


def export_untrained(folder: Path, kind: str, family: str, **settings: Any) -> tuple[Path, Path]:
    """Save a random model with the task's head and export it as a stranger's; returns checkpoint and artifact."""
    head, row, options = ROWS[kind]
    tiny_encoder(folder / "checkpoint", family)
    torch.manual_seed(2)
    auto = getattr(transformers, f"AutoModelFor{head}")
    model = auto.from_pretrained(folder / "checkpoint", **options)
    for parameter in model.parameters():  # the usual 0.02 gives every text nearly the same answer
        if parameter.dim() > 1:
            parameter.data *= 5
    model.save_pretrained(folder / "checkpoint")
    write_splits(folder / "data", train=[row() for _ in range(20)], validation=[row() for _ in range(40)])
    config = ExportConfig(
        checkpoint=folder / "checkpoint", data=str(folder / "data"), max_length=LONGEST, variants=("fp32",), **settings
    )
    export(config, folder / "artifact")
    return folder / "checkpoint", folder / "artifact"


def logits_of(checkpoint: Path, head: str, value: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = getattr(transformers, f"AutoModelFor{head}").from_pretrained(checkpoint).eval()
    feeds = tokenizer(value, return_tensors="pt", truncation=True, max_length=LONGEST)
    if model.config.model_type in NO_TYPES:
        feeds.pop("token_type_ids", None)
    with torch.inference_mode():
        return model(**feeds).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_classification_of_every_family(family: str, tmp_path: Path) -> None:
    checkpoint, artifact = export_untrained(tmp_path, "text-classification", family)
    predictor = Predictor(artifact, Settings())
    values = [text(3), text(80), ""]
    for value, answer in zip(values, predictor.predict(values), strict=True):
        scores = logits_of(checkpoint, "SequenceClassification", value).softmax(-1)
        assert answer["label"] == "abc"[int(scores.argmax())]
        assert answer["score"] == pytest.approx(float(scores.max()), abs=1e-3)
        assert ("truncated" in answer) == (value == values[1])
    assert [name for name, *_ in verify(artifact)] == ["fp32"]


def test_several_labels_are_those_above_one_half_best_first(tmp_path: Path) -> None:
    checkpoint, artifact = export_untrained(tmp_path, "multi-label", "bert")
    predictor = Predictor(artifact, Settings())
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
    predictor = Predictor(tiny_artifact, Settings())
    best = predictor.predict(["bank"])[0]
    assert predictor.predict(["bank"], {"threshold": best["score"]}) == [best]
    assert predictor.predict(["bank"], {"threshold": 1.0}) == [{**best, "label": None}]


def test_regression_answers_every_target(tmp_path: Path) -> None:
    checkpoint, artifact = export_untrained(tmp_path, "regression", "bert", task="regression")
    value = text()
    answer = Predictor(artifact, Settings()).predict([value])[0]
    assert answer["score"] == pytest.approx(logits_of(checkpoint, "SequenceClassification", value).tolist(), abs=1e-3)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlnet", "deberta-v2", "distilbert", "electra", "modernbert"])
def test_entities_of_words_and_of_text(family: str, tmp_path: Path) -> None:
    checkpoint, artifact = export_untrained(tmp_path, "token-classification", family)
    predictor = Predictor(artifact, Settings())
    words = "anna met ben in paris".split()
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint, **({"add_prefix_space": True} if family in BYTE_LEVEL else {})
    )
    model = transformers.AutoModelForTokenClassification.from_pretrained(checkpoint).eval()
    feeds = tokenizer([words], is_split_into_words=True, return_tensors="pt")
    with torch.inference_mode():
        best = model(**{name: feeds[name] for name in feeds if name != "token_type_ids" or family not in NO_TYPES})
        best = best.logits[0].argmax(-1)
    places = [feeds.word_ids(0).index(i) for i in range(len(words))]
    tags = [model.config.id2label[int(best[place])] for place in places]
    answer = predictor.predict([{"tokens": words}])[0]
    tagged = [word for word, tag in zip(words, tags, strict=True) if tag != "O"]
    assert " ".join(each["text"] for each in answer).split() == tagged
    given = "Anna met Ben, in Paris."
    for entity in predictor.predict([given])[0]:
        assert given[entity["start"] : entity["end"]] == entity["text"]


def test_a_long_text_goes_over_in_windows(tmp_path: Path) -> None:
    """Nothing is cut: words far beyond the maximum are tagged, and near ones as in a short text."""
    _, artifact = export_untrained(tmp_path, "token-classification", "bert")
    predictor = Predictor(artifact, Settings())
    sentence = text(200)
    answer = predictor.predict([sentence])[0]
    assert max(entity["end"] for entity in answer) > len(sentence) * 0.9
    assert all(sentence[entity["start"] : entity["end"]] == entity["text"] for entity in answer)


def test_words_of_text_keep_inner_punctuation_and_lose_outer() -> None:
    from tuneport.runtime.words import split_words

    sentence = "“Well-known U.S. firms,” said O'Neil (42): 東京です。"
    words = [sentence[start:end] for start, end in split_words(sentence)]
    assert words == [
        "“", "Well-known", "U.S", ".", "firms", ",", "”", "said", "O'Neil", "(", "42", ")", ":",
        "東", "京", "で", "す", "。",
    ]  # fmt: skip


@pytest.mark.parametrize("tokens", [[], ["a"], "a b", ["a", 7], ["a", " "], None])
def test_lists_of_words_are_checked(tmp_path: Path, tokens: Any) -> None:
    from tuneport.runtime.tasks.token_classification import _of_words

    if tokens in ([], ["a"]):
        assert _of_words(tokens).text == "".join(tokens)
    else:
        with pytest.raises(InputError, match="tokens"):
            _of_words(tokens)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "distilbert", "electra"])
def test_answers_are_the_best_spans_of_torch_s_logits(family: str, tmp_path: Path) -> None:
    checkpoint, artifact = export_untrained(tmp_path, "question-answering", family)
    predictor = Predictor(artifact, Settings())
    for row in (question_row() for _ in range(6)):
        asked = {"question": row["question"], "context": row["context"]}
        answer = predictor.predict([asked])[0]
        assert row["context"][answer["start"] : answer["end"]] == answer["answer"]
        sums = span_sums(checkpoint, **asked)
        best = max(sums.values())
        assert sums[answer["start"], answer["end"]] == pytest.approx(best, abs=1e-4)
        assert 0 < answer["score"] < 1


def span_sums(checkpoint: Path, question: str, context: str) -> dict[tuple[int, int], float]:
    """Go through every span of every window, one by one: its characters, and the sum of torch's two logits."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(checkpoint).eval()
    windows = tokenizer(
        question, context, truncation="only_second", max_length=LONGEST, stride=LONGEST // 4,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=None,
    )  # fmt: skip
    sums: dict[tuple[int, int], float] = {}
    for i, ids in enumerate(windows["input_ids"]):
        feeds = {"input_ids": torch.tensor([ids])}
        if "token_type_ids" in windows and model.config.model_type in ("bert", "electra"):
            feeds["token_type_ids"] = torch.tensor([windows["token_type_ids"][i]])
        with torch.inference_mode():
            made = model(**feeds)
        places = windows["offset_mapping"][i]
        inside = [at for at, of in enumerate(windows.sequence_ids(i)) if of == 1 and places[at][1] > places[at][0]]
        for first in inside:
            for last in inside[inside.index(first) : inside.index(first) + 30]:
                start, end = places[first][0], places[last][1]
                start += len(context[start:end]) - len(context[start:end].lstrip())
                total = float(made.start_logits[0][first] + made.end_logits[0][last])
                sums[start, end] = max(total, sums.get((start, end), -1e9))
    return sums


def test_a_question_that_fills_the_window_is_refused_with_a_remedy(tmp_path: Path) -> None:
    _, artifact = export_untrained(tmp_path, "question-answering", "xlnet")
    predictor = Predictor(artifact, Settings())
    with pytest.raises(InputError, match=r"leaves 0 tokens.*shorten it"):
        predictor.predict([{"question": text(60), "context": "paris"}])
    assert predictor.predict([{"question": "who", "context": ""}])[0]["answer"] == ""
    with pytest.raises(InputError, match='"question" and "context"'):
        predictor.predict(["who"])


@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_pooling_heads_export_like_the_others(family: str, pooling: str, tmp_path: Path) -> None:
    row = ROWS["text-classification"][1]
    write_splits(tmp_path / "data", train=[row() for _ in range(30)], validation=[row() for _ in range(20)])
    settings = [f"pooling={pooling}", "num_train_epochs=1", f"max_length={LONGEST}", "save_strategy=no"]
    flags = {"task": "text-classification", "model": str(tiny_encoder(tmp_path / "base", family))}
    finetune(load_config(None, settings, {**flags, "data": str(tmp_path / "data")}), tmp_path / "run")
    export(ExportConfig(checkpoint=tmp_path / "run", variants=("fp32",)), tmp_path / "artifact")
    checkpoint = tmp_path / "run" / "checkpoint"
    model = PooledClassifier.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    values = [text(3), text(20)]
    with torch.inference_mode():
        expected = [model(**tokenizer(value, return_tensors="pt")).logits[0].softmax(-1) for value in values]
    answers = Predictor(tmp_path / "artifact", Settings()).predict(values)
    assert [answer["score"] for answer in answers] == pytest.approx([float(e.max()) for e in expected], abs=1e-3)


def test_a_stranger_s_pairs_are_told_by_the_data(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "checkpoint")
    options = {"id2label": {0: "no", 1: "yes"}}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint", **options)
    model.save_pretrained(tmp_path / "checkpoint")
    rows = [{"text": text(), "text_pair": text(), "label": chance.choice(["no", "yes"])} for _ in range(30)]
    write_splits(tmp_path / "data", train=rows, validation=rows)
    config = ExportConfig(checkpoint=tmp_path / "checkpoint", data=str(tmp_path / "data"), variants=("fp32",))
    manifest = export(config, tmp_path / "artifact")
    assert manifest.processing.accepts_pairs
    assert {tensor.name for tensor in manifest.inputs} == {"input_ids", "attention_mask", "token_type_ids"}
    predictor = Predictor(tmp_path / "artifact", Settings())
    asked = {"text": "anna", "text_pair": "met ben"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    with torch.inference_mode():
        logits = model.eval()(**tokenizer("anna", "met ben", return_tensors="pt")).logits[0]
    assert predictor.predict([asked])[0]["score"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-3)


def test_every_row_that_the_model_cannot_answer_is_listed(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "checkpoint")
    options = {"id2label": {0: "O", 1: "B-X"}}
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "checkpoint", **options)
    model.save_pretrained(tmp_path / "checkpoint")
    rows = [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a"], "tags": ["B-Z"]}, {"tokens": ["a"], "tags": ["Q"]}]
    write_splits(tmp_path / "data", train=rows, validation=rows)
    config = ExportConfig(checkpoint=tmp_path / "checkpoint", data=str(tmp_path / "data"), variants=("fp32",))
    with pytest.raises(DataError, match=r"row 2: tag 'B-Z'.*row 3: tag 'Q'"):
        export(config, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()
