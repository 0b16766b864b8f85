"""Every encoder task and family, from a checkpoint to predictions that equal those of transformers."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from kit.data import write_splits
from kit.encoders import FAMILIES, spread_logits, tiny_encoder
from kit.exports import export_variants, quick_exports
from kit.runs import quick_reports
from kit.texts import WORDS
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from tuneport.errors import DataError, InputError
from tuneport.modeling.heads import PooledClassifier
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.verify import verify
from tuneport.runtime.words import split_words
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune

MAX_LENGTH = 32
BYTE_LEVEL = ("roberta", "modernbert")
NO_TYPES = ("distilbert", "modernbert")
generator = random.Random(5)


def text(words: int = 12) -> str:
    return " ".join(generator.choices(WORDS, k=words))


def question_row() -> dict[str, Any]:
    context = text(60)
    answer = context.split()[7]
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"question": text(4), "context": context, "answers": answers}


def tagged_row(words: int = 12) -> dict[str, Any]:
    tokens = text(words).split()
    tags = generator.choices(["O", "B-X", "I-X", "B-Y"], k=len(tokens))
    for i, before in enumerate(["O", *tags[:-1]]):
        if tags[i] == "I-X" and (i == 0 or before[1:] != "-X"):
            tags[i] = "B-X"
    return {"tokens": tokens, "tags": tags}


ROWS: dict[str, tuple[str, Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "text-classification": ("SequenceClassification", lambda: {"text": text(), "label": generator.choice("abc")},
                            {"id2label": {0: "a", 1: "b", 2: "c"}}),
    "multi-label": ("SequenceClassification", lambda: {"text": text(), "labels": generator.sample("abc", 2)},
                    {"id2label": {0: "a", 1: "b", 2: "c"}, "problem_type": "multi_label_classification"}),
    "regression": ("SequenceClassification", lambda: {"text": text(), "score": [generator.random() for _ in "ab"]},
                   {"num_labels": 2, "problem_type": "regression"}),
    "token-classification": ("TokenClassification", tagged_row,
                             {"id2label": {0: "O", 1: "B-X", 2: "I-X", 3: "B-Y"}}),
    "question-answering": ("QuestionAnswering", question_row, {}),
}  # fmt: skip


def export_untrained(folder: Path, kind: str, family: str, **settings: Any) -> tuple[Path, Path]:
    """Save a random model with the task's head and export it without a run; returns checkpoint and artifact."""
    head, row, options = ROWS[kind]
    tiny_encoder(folder / "checkpoint", family)
    torch.manual_seed(2)
    auto = getattr(transformers, f"AutoModelFor{head}")
    model = auto.from_pretrained(folder / "checkpoint", **options)
    for parameter in model.parameters():  # the usual 0.02 gives every text nearly the same prediction
        if parameter.dim() > 1:
            parameter.data *= 5
    if head != "QuestionAnswering":
        spread_logits(model, AutoTokenizer.from_pretrained(folder / "checkpoint"), deviation=1.0)
    model.save_pretrained(folder / "checkpoint")
    data = write_splits(folder / "data", train=[row() for _ in range(20)], validation=[row() for _ in range(20)])
    settings = {"max_length": MAX_LENGTH, **settings}
    with quick_exports():
        export_variants(folder / "checkpoint", data, folder / "artifact", "fp32", **settings)
    return folder / "checkpoint", folder / "artifact"


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and artifact of a BERT for token classification."""
    return export_untrained(tmp_path_factory.mktemp("tagger"), "token-classification", "bert")


def logits_of(checkpoint: Path, head: str, value: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = getattr(transformers, f"AutoModelFor{head}").from_pretrained(checkpoint).eval()
    feeds = tokenizer(value, return_tensors="pt", truncation=True, max_length=MAX_LENGTH)
    if model.config.model_type in NO_TYPES:
        feeds.pop("token_type_ids", None)
    with torch.inference_mode():
        return model(**feeds).logits[0]


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


@pytest.mark.parametrize("family", FAMILIES)
def test_entities_of_words_and_of_text(family: str, tagger: tuple[Path, Path], tmp_path: Path) -> None:
    is_bert = family == "bert"
    checkpoint, artifact = tagger if is_bert else export_untrained(tmp_path, "token-classification", family)
    predictor = Predictor(artifact)
    words = "anna met ben in paris".split()
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint, **({"add_prefix_space": True} if family in BYTE_LEVEL else {})
    )
    model = transformers.AutoModelForTokenClassification.from_pretrained(checkpoint).eval()
    feeds = tokenizer([words], is_split_into_words=True, return_tensors="pt")
    with torch.inference_mode():
        best = model(**{name: feeds[name] for name in feeds if name != "token_type_ids" or family not in NO_TYPES})
        best = best.logits[0].argmax(-1)
    positions = [feeds.word_ids(0).index(i) for i in range(len(words))]
    tags = [model.config.id2label[int(best[position])] for position in positions]
    answer = predictor.predict([{"tokens": words}])[0]
    tagged = [word for word, tag in zip(words, tags, strict=True) if tag != "O"]
    assert " ".join(each["text"] for each in answer).split() == tagged
    sentence = "Anna met Ben, in Paris."
    for entity in predictor.predict([sentence])[0]:
        assert sentence[entity["start"] : entity["end"]] == entity["text"]


def test_a_long_text_is_read_in_windows(tagger: tuple[Path, Path]) -> None:
    """Nothing is truncated: words far beyond the maximum length are tagged."""
    sentence = text(200)
    (answer,) = Predictor(tagger[1]).predict([sentence])
    assert max(entity["end"] for entity in answer) > len(sentence) * 0.9
    assert all(sentence[entity["start"] : entity["end"]] == entity["text"] for entity in answer)


def test_words_of_text_keep_inner_punctuation_and_lose_outer() -> None:
    sentence = "“Well-known U.S. firms,” said O'Neil (42): 東京です。"
    words = [sentence[start:end] for start, end in split_words(sentence)]
    assert words == [
        "“", "Well-known", "U.S", ".", "firms", ",", "”", "said", "O'Neil", "(", "42", ")", ":",
        "東", "京", "で", "す", "。",
    ]  # fmt: skip


@pytest.mark.parametrize("tokens", [[], ["a"], "a b", ["a", 7], ["a", " "], None])
def test_lists_of_words_are_checked(tagger: tuple[Path, Path], tokens: Any) -> None:
    task = Predictor(tagger[1]).task
    if tokens in ([], ["a"]):
        assert task.parse_input({"tokens": tokens}).text == "".join(tokens)
    else:
        with pytest.raises(InputError, match="tokens"):
            task.parse_input({"tokens": tokens})


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "distilbert", "electra"])
def test_answers_are_the_best_spans_of_torch_s_logits(family: str, tmp_path: Path) -> None:
    checkpoint, artifact = export_untrained(tmp_path, "question-answering", family)
    predictor = Predictor(artifact)
    for row in (question_row() for _ in range(6)):
        question = {"question": row["question"], "context": row["context"]}
        (answer,) = predictor.predict([question])
        assert row["context"][answer["start"] : answer["end"]] == answer["answer"]
        sums = span_sums(checkpoint, **question)
        best = max(sums.values())
        assert sums[answer["start"], answer["end"]] == pytest.approx(best, abs=1e-4)
        assert 0 < answer["score"] < 1


def span_sums(checkpoint: Path, question: str, context: str) -> dict[tuple[int, int], float]:
    """Return the sum of torch's two logits for the characters of every span of every window."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(checkpoint).eval()
    windows = tokenizer(
        question, context, truncation="only_second", max_length=MAX_LENGTH, stride=MAX_LENGTH // 4,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=None,
    )  # fmt: skip
    sums: dict[tuple[int, int], float] = {}
    for i, ids in enumerate(windows["input_ids"]):
        feeds = {"input_ids": torch.tensor([ids])}
        if "token_type_ids" in windows and model.config.model_type in ("bert", "electra"):
            feeds["token_type_ids"] = torch.tensor([windows["token_type_ids"][i]])
        with torch.inference_mode():
            outputs = model(**feeds)
        offsets = windows["offset_mapping"][i]
        inside = [at for at, of in enumerate(windows.sequence_ids(i)) if of == 1 and offsets[at][1] > offsets[at][0]]
        for first in inside:
            for last in inside[inside.index(first) : inside.index(first) + 30]:
                start, end = offsets[first][0], offsets[last][1]
                start += len(context[start:end]) - len(context[start:end].lstrip())
                total = float(outputs.start_logits[0][first] + outputs.end_logits[0][last])
                sums[start, end] = max(total, sums.get((start, end), -1e9))
    return sums


def test_a_question_that_fills_the_window_is_refused_with_a_remedy(tmp_path: Path) -> None:
    _, artifact = export_untrained(tmp_path, "question-answering", "xlnet")
    predictor = Predictor(artifact)
    with pytest.raises(InputError, match=r"leaves 0 tokens.*shorten it"):
        predictor.predict([{"question": text(60), "context": "paris"}])
    assert predictor.predict([{"question": "who", "context": ""}])[0]["answer"] == ""
    with pytest.raises(InputError, match='"question" and "context"'):
        predictor.predict(["who"])


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


def test_every_row_that_the_model_cannot_predict_is_listed(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "checkpoint")
    options = {"id2label": {0: "O", 1: "B-X"}}
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "checkpoint", **options)
    model.save_pretrained(tmp_path / "checkpoint")
    rows = [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a"], "tags": ["B-Z"]}, {"tokens": ["a"], "tags": ["Q"]}]
    data = write_splits(tmp_path / "data", train=rows, validation=rows)
    with pytest.raises(DataError, match=r"row 2: tag 'B-Z'.*row 3: tag 'Q'"):
        export_variants(tmp_path / "checkpoint", data, tmp_path / "artifact", "fp32")
    assert not (tmp_path / "artifact").exists()


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
