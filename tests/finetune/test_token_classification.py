"""Tags of words: which scheme they follow, how they meet sub-words, scores by entities, and what is refused."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from kit.data import QUICK, read_splits, write_splits
from kit.encoders import FAMILIES, tiny_encoder
from kit.generative import nested_byte_level
from transformers import AutoModelForTokenClassification, AutoTokenizer, ByT5Tokenizer

from tuneport.errors import CheckpointError, DataError, TuneportError
from tuneport.metrics.entities import Entity, find_entities, score_entities
from tuneport.stages.finetune.config import FinetuneConfig, load_config
from tuneport.stages.finetune.tasks.token_classification import Task
from tuneport.stages.finetune.train import finetune
from tuneport.tags import detect_scheme
from tuneport.tasks import task_spec

ROWS = [
    {"tokens": ["anna", "lives", "in", "new", "york"], "tags": ["B-PER", "O", "O", "B-LOC", "I-LOC"]},
    {"tokens": ["ben", "saw", "oslo", "?"], "tags": ["B-PER", "O", "B-LOC", "O"]},
    {"tokens": ["dora", "met", "carl"], "tags": ["B-PER", "O", "B-PER"]},
    {"tokens": ["the", "big", "river"], "tags": ["O", "O", "O"]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("data"), train=ROWS * 4, validation=ROWS, test=ROWS)


def _config(model: Path, data: Path, **changes: Any) -> FinetuneConfig:
    values = {"task": "token-classification", "model": str(model), "data": str(data)}
    return load_config(flags={**QUICK, **values, **changes})


def _task(model: Path, data: Path, **changes: Any) -> tuple[Task, dict[str, datasets.Dataset]]:
    read = read_splits(data, task_spec("token-classification").columns)
    return Task(read, _config(model, data, **changes)), read.splits


def _logits(task: Task, features: datasets.Dataset, tags: list[list[str]]) -> np.ndarray[Any, Any]:
    """Logits that say these tags, padded as Trainer pads; what stands between the words says something else."""
    width = max(len(words) for words in features["words"])
    logits = np.full((len(features), width, len(task.labels)), -100.0)
    for i, words in enumerate(features["words"]):
        for position, word in enumerate(words):
            tag = tags[i][word] if word >= 0 else task.labels[-1]
            logits[i, position] = [float(label == tag) for label in task.labels]
    return logits


@pytest.mark.parametrize(
    ("name", "tags", "entities"),
    [
        ("BIO", "B-P I-P B-P O B-L", [("P", 0, 2), ("P", 2, 3), ("L", 4, 5)]),
        ("BILOU", "B-P I-P L-P O U-L", [("P", 0, 3), ("L", 4, 5)]),
        ("BIOES", "B E O S O", [("_", 0, 2), ("_", 3, 4)]),
        ("BIOES", "B-P I-P E-P O S-L", [("P", 0, 3), ("L", 4, 5)]),
        ("BILOU", "U-P U-P O B-L L-L", [("P", 0, 1), ("P", 1, 2), ("L", 3, 5)]),
        ("IOB1", "I-P I-P B-P O I-L", [("P", 0, 2), ("P", 2, 3), ("L", 4, 5)]),
        ("IO", "I-P I-P I-L O I-L", [("P", 0, 2), ("L", 2, 3), ("L", 4, 5)]),
        ("IO", "P P L O creative-work", [("P", 0, 2), ("L", 2, 3), ("creative-work", 4, 5)]),
        ("BIO", "B I B O O", [("_", 0, 2), ("_", 2, 3)]),
        ("IO", "ES ES LU O", [("ES", 0, 2), ("LU", 2, 3)]),
        ("BIO", "B-creative-work I-creative-work O", [("creative-work", 0, 2)]),
    ],
)
def test_the_scheme_is_detected_from_the_tags(name: str, tags: str, entities: list[tuple[str, int, int]]) -> None:
    scheme = detect_scheme([["O"], tags.split()])
    assert scheme.name == name
    assert scheme.find_problem(tags.split()) is None
    assert find_entities(tags.split(), scheme) == [Entity(*each) for each in entities]


@pytest.mark.parametrize("convert", [str, lambda tag: tag.replace("B-", "I-"), lambda tag: tag[2:] or "O"])
def test_entities_are_scored_whole(convert: Any) -> None:
    """Four entities: one right, one too long, one of another type, one missed; and one invented."""
    expected = ["B-P", "O", "B-P", "O", "O", "B-L", "O", "B-L", "I-L", "O", "O"]
    predicted = ["B-P", "O", "B-P", "I-P", "O", "B-P", "O", "O", "O", "O", "B-L"]
    right, guessed = ([convert(tag) for tag in tags] for tags in (expected, predicted))
    metrics, classes = score_entities([right], [guessed], detect_scheme([right]))
    assert metrics == {"precision": 1 / 4, "recall": 1 / 4, "f1": 1 / 4}
    scores = {score.label: score for score in classes}
    assert scores.keys() == {"P", "L"}
    assert (scores["P"].precision, scores["P"].recall, scores["P"].support) == (1 / 3, 1 / 2, 2)
    assert (scores["L"].precision, scores["L"].recall, scores["L"].f1, scores["L"].support) == (0, 0, 0, 2)


def test_what_the_scheme_does_not_allow_is_no_entity() -> None:
    """An I after O in BIO, an unfinished B in BIOES: seqeval would count both unless it is told to be strict."""
    for right, guessed in (("B-P O B-L", "B-P O I-L"), ("S-P O S-L", "S-P O B-L")):
        metrics, _ = score_entities([right.split()], [guessed.split()], detect_scheme([right.split()]))
        assert metrics == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}


def test_sentences_without_entities_score_zero_instead_of_failing() -> None:
    metrics, classes = score_entities([["O", "O"]], [["O", "O"]], detect_scheme([["B-P", "O"]]))
    assert metrics == {"precision": 0, "recall": 0, "f1": 0}
    assert classes == ()


def test_only_the_first_sub_word_has_the_tag_of_its_word(bert: Path, tmp_path: Path) -> None:
    rows = [{"tokens": ["anna", "xy", "\u200b", "lives"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]}]
    task, splits = _task(bert, write_splits(tmp_path, train=rows, validation=rows), max_length=8)
    processor = task.load_processor(str(bert))
    features = task.encode(splits["train"], processor, train=True)
    tokens = processor.convert_ids_to_tokens(features[0]["input_ids"])
    assert task.labels == ("O", "B-LOC", "B-PER", "I-PER")
    assert tokens == ["[CLS]", "anna", "x", "##y", "lives", "[SEP]"]
    assert features[0]["labels"] == [-100, 2, 3, -100, 1, -100]
    assert features[0]["words"] == [-1, 0, 1, -1, 3, -1]
    assert features[0]["length"] == 6
    assert features[0]["truncated"] is False


def test_evaluation_finds_mistakes_and_counts_truncated_words_as_missed(bert: Path, tmp_path: Path) -> None:
    long = {"tokens": ["the"] * 8 + ["paris"], "tags": ["O"] * 8 + ["B-LOC"]}
    folder = write_splits(tmp_path, train=ROWS, validation=[*ROWS, long])
    task, splits = _task(bert, folder, max_length=8)
    rows = splits["validation"]
    features = task.encode(rows, task.load_processor(str(bert)), train=False)
    assert features["truncated"] == [False] * 4 + [True]
    tags = [row["tags"] for row in [*ROWS, long]]
    perfect = task.evaluate(_logits(task, features, tags), None, rows, features)
    assert perfect.metrics["precision"] == 1.0
    assert perfect.metrics["recall"] == 6 / 7  # the last token of the long row was cut
    assert perfect.metrics["accuracy"] == 23 / 24
    assert [(each.row, each.expected, each.predicted, each.loss) for each in perfect.mistakes] == [
        (5, "LOC: paris", "none", 1.0)
    ]
    tags[0] = ["B-LOC", "O", "O", "B-LOC", "O"]
    worse = task.evaluate(_logits(task, features, tags), None, rows, features)
    assert worse.metrics["f1"] == pytest.approx(2 * 4 / (6 + 7))
    assert worse.metrics["accuracy"] == 21 / 24
    first = worse.mistakes[0]
    assert (first.row, first.input, first.loss) == (1, "anna lives in new york", 4.0)
    assert (first.expected, first.predicted) == ("PER: anna | LOC: new york", "LOC: anna | LOC: new")
    assert {score.label: score.support for score in worse.classes} == {"LOC": 3, "PER": 4}


def test_a_run_learns_entities(bert: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = finetune(_config(bert, folder, max_steps=60, learning_rate=5e-3), out)
    assert run.metrics["test"]["f1"] == 1.0
    assert run.metrics["test"]["accuracy"] == 1.0
    assert run.labels == ("O", "B-LOC", "I-LOC", "B-PER")
    evaluation = json.loads((out / "evaluation.json").read_text())["test"]
    assert [each["label"] for each in evaluation["classes"]] == ["LOC", "PER"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_loads_in_transformers_alone(family: str, folder: Path, tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base", family)
    run = finetune(_config(base, folder), tmp_path / "run")
    assert run.metrics["test"].keys() == {"precision", "recall", "f1", "accuracy", "loss"}
    model, loaded = AutoModelForTokenClassification.from_pretrained(
        tmp_path / "run" / "checkpoint", output_loading_info=True
    )
    assert not loaded["missing_keys"]
    assert tuple(model.config.id2label.values()) == run.labels
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "checkpoint")
    encoded = tokenizer(["anna", "paris"], is_split_into_words=True, return_tensors="pt", padding=True)
    assert model(**{k: v for k, v in encoded.items() if k != "token_type_ids"}).logits.shape[-1] == 4
    assert encoded.tokens() == tokenizer("anna paris").tokens()  # a word of a list is encoded as one of a text
    assert tokenizer.padding_side == "right"


def test_lists_of_words_are_encoded_as_texts_where_spaces_are_marked_late(folder: Path, tmp_path: Path) -> None:
    """Llama 3 and Qwen: ByteLevel is the second of two pre-tokenizers, behind a split that knows no words."""
    base = nested_byte_level(tmp_path / "base")
    out = tmp_path / "run"
    run = finetune(_config(base, folder, max_steps=1), out)
    assert run.labels == ("O", "B-LOC", "I-LOC", "B-PER")
    words = ["anna", "met", "ben's", "river", ",", "u.s."]
    for tokenizer in (
        _task(base, folder)[0].load_processor(str(base)),
        AutoTokenizer.from_pretrained(out / "checkpoint"),
    ):
        listed = tokenizer(words, is_split_into_words=True)
        assert listed.tokens() == tokenizer(" ".join(words)).tokens()
        assert listed.tokens()[:2] == ["Ġanna", "Ġmet"]
        assert len([token for token in listed.tokens() if token.startswith("Ġ")]) == len(words)
        assert set(listed.word_ids()) == set(range(len(words)))


def test_the_hubs_lists_of_label_numbers_become_names(bert: Path, tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["O", "B-PER", "B-LOC"])
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": datasets.List(names)})
    rows = [{"tokens": ["anna", "in", "oslo"], "tags": [1, 0, 2]}] * 10
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "train.parquet"))
    task, splits = _task(bert, tmp_path)
    assert splits["train"][0]["tags"] == ["B-PER", "O", "B-LOC"]
    assert task.labels == ("O", "B-LOC", "B-PER")


def test_all_problems_come_at_once(bert: Path, tmp_path: Path) -> None:
    bad = [
        {"tokens": ["anna", "lives"], "tags": ["B-PER"]},
        {"tokens": [], "tags": []},
        {"tokens": ["anna", " "], "tags": ["X-PER", "O"]},
    ]
    folder = write_splits(tmp_path, train=[*ROWS, *bad], validation=[*ROWS, {"tokens": ["on"], "tags": ["B-DAY"]}])
    with pytest.raises(DataError) as found:
        _task(bert, folder)
    message = str(found.value)
    assert "train.jsonl row 5: 2 tokens have 1 tags" in message
    assert "train.jsonl row 6: tokens is [], and a list of strings is expected" in message
    assert "train.jsonl row 6: tags is []" in message
    assert "train.jsonl row 7: number 2 of tokens is an empty string" in message
    assert "train.jsonl row 7: tag 'X-PER' is malformed" in message
    assert "(and 1 more)" in message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["on"], "tags": ["B-DAY"]}, "row 5: tag 'B-DAY' is not among train's"),
        ({"tokens": ["on"], "tags": [None]}, "row 5: number 1 of tags is None, and a string is expected"),
        ({"tokens": ["on"], "tags": None}, "row 5: tags is None, and a list of strings is expected"),
        ({"tokens": None, "tags": ["O"]}, "row 5: tokens is None, and a list of strings is expected"),
    ],
)
def test_a_bad_row_of_validation_is_named(row: Any, message: str, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation\.jsonl") as found:
        _task(bert, write_splits(tmp_path, train=ROWS, validation=[*ROWS, row]))
    assert message in str(found.value)


def test_texts_instead_of_lists_are_refused(bert: Path, tmp_path: Path) -> None:
    rows = [{"tokens": "anna lives", "tags": "B-PER O"}]
    with pytest.raises(DataError, match="row 1: tokens is 'anna lives', and a list of strings is expected"):
        _task(bert, write_splits(tmp_path, train=rows, validation=rows))


def test_a_single_tag_is_refused(bert: Path, tmp_path: Path) -> None:
    rows = [{"tokens": ["the"], "tags": ["O"]}]
    with pytest.raises(DataError, match=r"train\.jsonl has one tag, 'O'"):
        _task(bert, write_splits(tmp_path, train=rows, validation=rows))


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        ("O I-LOC", "tag 'I-LOC' follows 'O', which BIO does not allow"),
        ("B-PER I-LOC", "tag 'I-LOC' follows 'B-PER', which BIO does not allow"),
        ("B-PER E-LOC", "tag 'E-LOC' follows 'B-PER', which BIOES does not allow"),
        ("S-PER B-PER O", "tag 'O' follows 'B-PER', which BIOES does not allow"),
        ("U-PER B-PER", "tag 'B-PER' is the last of its sentence, which BILOU does not allow"),
        ("S-PER U-LOC", "tag 'U-LOC' is of BILOU, and 'S-PER' of BIOES"),
        ("B-PER M-PER E-PER", "tag 'M-PER' is malformed, and O or B-, I-, E-, S- with a type is expected (BIOES)"),
        ("B-PER LOC", "tag 'LOC' is malformed, and O or B-, I- with a type is expected (BIO)"),
        ("B_PER I_PER", "tag 'B_PER' is malformed, and O or B-, I-, E-, S-, L-, U- with a type is expected"),
        ("PER-B PER-I", "tag 'PER-B' is malformed"),
        ("b-per i-per o", "tag 'b-per' is malformed"),
    ],
)
def test_tags_of_no_scheme_are_refused_with_their_row(tags: str, problem: str, bert: Path, tmp_path: Path) -> None:
    outside = {"tokens": ["the", "river"], "tags": ["O", "O"]}
    scheme = [{"tokens": ["anna"], "tags": ["B-PER"]}] if problem.endswith("BIO does not allow") else []
    bad = {"tokens": ["the"] * len(tags.split()), "tags": tags.split()}
    rows = [outside, *scheme, bad]
    with pytest.raises(DataError) as found:
        _task(bert, write_splits(tmp_path, train=rows, validation=[outside]))
    assert f"train.jsonl row {len(rows)}: {problem}" in str(found.value)


def test_a_scheme_holds_for_every_split(bert: Path, tmp_path: Path) -> None:
    train = [{"tokens": ["anna", "ben"], "tags": ["I-PER", "B-PER"]}]
    validation = [*train, {"tokens": ["the", "anna"], "tags": ["O", "B-PER"]}]
    with pytest.raises(DataError, match=r"validation\.jsonl row 2: tag 'B-PER' follows 'O', which IOB1 does not allow"):
        _task(bert, write_splits(tmp_path, train=train, validation=validation))


def test_words_of_zero_width_at_the_end_are_not_taken_for_truncated(bert: Path, tmp_path: Path) -> None:
    rows = [
        {"tokens": ["anna", "\u200b"], "tags": ["B-PER", "O"]},
        {"tokens": ["the"] * 7, "tags": ["O"] * 7},
    ]
    task, splits = _task(bert, write_splits(tmp_path, train=rows, validation=rows), max_length=8)
    features = task.encode(splits["train"], task.load_processor(str(bert)), train=True)
    assert features["truncated"] == [False, True]


def test_a_slow_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base")
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (base / file).unlink()
    ByT5Tokenizer().save_pretrained(base)
    with pytest.raises(CheckpointError, match=r"ByT5Tokenizer.*needs a model with a fast tokenizer"):
        finetune(_config(base, folder), tmp_path / "run")


def test_settings_without_effect_are_refused(bert: Path, folder: Path) -> None:
    with pytest.raises(TuneportError, match="token-classification has no use for pooling = 'mean'"):
        _task(bert, folder, pooling="mean")
