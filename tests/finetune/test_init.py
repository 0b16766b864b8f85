"""`tuneport init`: the task and columns of every form of data, and a settings file that a run takes as it is."""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from kit.command import assert_one_line, tuneport
from kit.data import write_rows
from kit.encoders import tiny_encoder
from kit.generative import build_causal, build_seq2seq
from kit.scoring import write_table
from kit.texts import random_texts
from kit.tokenizers import llama_tokenizer

from tuneport.data.files import load_file
from tuneport.errors import DataError
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.init import columns
from tuneport.stages.finetune.init.columns import describe_columns
from tuneport.stages.finetune.init.describe import describe
from tuneport.stages.finetune.init.recognize import recognize
from tuneport.stages.finetune.setup import prepare
from tuneport.stages.finetune.toml import to_toml

POSITIONS = 66
"""Of the tiny encoder."""
TEXTS = [text for text, _ in zip(random_texts(5), range(40), strict=False)]
Make = Callable[[int], dict[str, Any]]


def rows(make: Make, count: int = 40) -> list[dict[str, Any]]:
    return [make(i) for i in range(count)]


DATA: dict[str, tuple[Make, str, dict[str, str]]] = {
    "label": (lambda i: {"text": TEXTS[i], "label": "ab"[i % 2]}, "text-classification", {}),
    "numbers as labels": (lambda i: {"text": TEXTS[i], "label": i % 3}, "text-classification", {}),
    "renamed": (
        lambda i: {"id": f"x{i}", "Review Text": TEXTS[i], "Stars": i % 5},
        "text-classification",
        {"text": "Review Text", "label": "Stars"},
    ),
    "names of no kind": (
        lambda i: {"a": "xy"[i % 2], "b": TEXTS[i]},
        "text-classification",
        {"text": "b", "label": "a"},
    ),
    "pairs": (
        lambda i: {"premise": TEXTS[i], "hypothesis": TEXTS[-i], "label": "ab"[i % 2]},
        "text-classification",
        {"text": "premise", "text_pair": "hypothesis"},
    ),
    "lists of labels": (lambda i: {"text": TEXTS[i], "labels": ["a", "b"][: i % 3]}, "text-classification", {}),
    "topics": (
        lambda i: {"text": TEXTS[i], "topics": ["a", "b"][: 1 + i % 2]},
        "text-classification",
        {"labels": "topics"},
    ),
    "score": (lambda i: {"text": TEXTS[i], "score": i / 8}, "regression", {}),
    "whole score": (lambda i: {"text": TEXTS[i], "score": i}, "regression", {}),
    "scores": (lambda i: {"text": TEXTS[i], "score": [i / 8, 1.5]}, "regression", {}),
    "fraction of no name": (
        lambda i: {"sentence": TEXTS[i], "z": i / 8},
        "regression",
        {"text": "sentence", "score": "z"},
    ),
    "tags": (
        lambda i: {"tokens": TEXTS[i].split(), "ner_tags": ["B-X"] + ["O"] * (len(TEXTS[i].split()) - 1)},
        "token-classification",
        {"tags": "ner_tags"},
    ),
    "answers": (
        lambda i: {"context": "one two three", "question": "two?", "answers": {"text": ["two"], "answer_start": [4]}},
        "question-answering",
        {},
    ),
    "translation": (
        lambda i: {"de": TEXTS[i], "en": TEXTS[-i]},
        "translation",
        {"source": "de", "target": "en"},
    ),
    "summary": (
        lambda i: {"document": f"{TEXTS[i]} {TEXTS[-i]}", "summary": TEXTS[i]},
        "summarization",
        {"source": "document", "target": "summary"},
    ),
    "shorter targets": (lambda i: {"source": "one two three " * 4, "target": "one"}, "summarization", {}),
    "texts": (lambda i: {"text": TEXTS[i]}, "text-generation", {}),
    "one column": (lambda i: {"story": TEXTS[i]}, "text-generation", {"text": "story"}),
    "messages": (
        lambda i: {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]},
        "text-generation",
        {},
    ),
    "audio": (
        lambda i: {"file": f"{i}.wav", "text": "low"},
        "automatic-speech-recognition",
        {"audio": "file", "target": "text"},
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_every_tasks_data_is_recognized(name: str, tmp_path: Path) -> None:
    make, task, renamed = DATA[name]
    file = load_file(write_rows(tmp_path / "all.jsonl", rows(make)), None)
    found = recognize(describe_columns(file), None, "all.jsonl")
    assert (found.task, found.renamed) == (task, renamed), found
    assert recognize(describe_columns(file), task, "all.jsonl").columns == found.columns


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "encoder": str(tiny_encoder(folder / "encoder")),
        "seq2seq": str(build_seq2seq(folder / "t5", "t5")),
        "causal": str(build_causal(folder / "gpt2", "gpt2", llama_tokenizer())),
    }


MODELS = {"translation": "seq2seq", "summarization": "seq2seq", "text-generation": "causal"}


@pytest.mark.parametrize(
    "name", ["label", "pairs", "topics", "scores", "tags", "answers", "translation", "summary", "one column"]
)
def test_the_file_is_what_a_run_takes(name: str, models: dict[str, str], tmp_path: Path) -> None:
    make, task, renamed = DATA[name]
    source, out = write_rows(tmp_path / "all.jsonl", rows(make)), tmp_path / "new" / "settings.toml"
    done = tuneport("init", source, "--out", out, "--model", models[MODELS.get(task, "encoder")])
    assert done.code == 0, done.err
    assert done.out.startswith(f"{task}: ")
    values = tomllib.loads(out.read_text(encoding="utf-8"))
    assert (values["task"], values.get("columns", {}), values["data"]) == (task, renamed, str(source))
    prepared = prepare(load_config(out))
    is_truncated = any("truncated" in warning for warning in prepared.warnings)
    assert is_truncated == (name == "pairs")  # which have more tokens than the tiny model has positions
    assert {"train", "validation", "test"} == prepared.features.keys()
    text = " ".join(line.removeprefix("# ") for line in out.read_text(encoding="utf-8").splitlines())
    assert "Rows: train 32, validation 4, test 4." in text
    assert "tokens: median" in text


def test_a_run_is_trained_from_a_table_with_a_semicolon(models: dict[str, str], tmp_path: Path) -> None:
    lines = [f'"{TEXTS[i]} {"film" if i % 8 else "vote"}";{"good" if i % 8 else "bad"}' for i in range(40)]
    (tmp_path / "reviews.csv").write_text("review;sentiment\n" + "\n".join([*lines, lines[0]]) + "\n")
    out = tmp_path / "settings.toml"
    given = ("--set", "num_train_epochs=1", "--set", "eval_strategy=no", "--set", 'report_to="none"')
    done = tuneport("init", tmp_path / "reviews.csv", "--out", out, "--model", models["encoder"], *given)
    assert done.code == 0, done.err
    assert "warning: the label 'good' has " in done.err
    assert "WARNING: the label 'good' has" in out.read_text()
    assert tomllib.loads(out.read_text())["class_weights"] == "balanced"
    trained = tuneport("finetune", "--config", out, "--out", tmp_path / "run")
    assert trained.code == 0, trained.err
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["labels"] == ["bad", "good"]
    assert (run["config"]["num_train_epochs"], run["config"]["class_weights"]) == (1, "balanced")


def test_repetitions_contradictions_and_leakage_are_warned_of(models: dict[str, str], tmp_path: Path) -> None:
    train = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXTS)]
    train += [train[0], {**train[1], "label": "a"}]
    for split, content in {"train": train, "validation": [train[5], *train[:2]], "test": train[2:6]}.items():
        write_rows(tmp_path / f"{split}.jsonl", content)
    found = describe(str(tmp_path), task=None, model=models["encoder"], columns={}, splits={})
    assert {
        "1 of 42 rows of train.jsonl repeat another row",
        "1 inputs of train.jsonl are there with several targets",
        "train.jsonl has 42 rows: results will depend on chance",
        "4 of train's 42 rows are also in test.jsonl",
    } <= set(found.warnings)
    assert found.rows == {"train": 42, "validation": 3, "test": 4}
    assert found.label_counts == {"a": 22, "b": 20}


def test_what_the_user_says_outweighs_what_is_recognized(models: dict[str, str], tmp_path: Path) -> None:
    source = write_rows(
        tmp_path / "all.jsonl", rows(lambda i: {"text": TEXTS[i], "label": "ab"[i % 2], "score": i / 8, "grade": i % 3})
    )
    model = models["encoder"]
    first = describe(str(source), task=None, model=model, columns={}, splits={})
    assert first.config.task == "text-classification"
    assert first.recognized.reason.endswith("; --task regression would take score")
    second = describe(str(source), task="regression", model=model, columns={}, splits={}, settings=["max_length=24"])
    assert (second.config.task, second.config.max_length) == ("regression", 24)
    third = describe(str(source), task=None, model=model, columns={"label": "grade"}, splits={})
    assert (third.config.columns, third.label_counts.keys()) == ({"label": "grade"}, {"0", "1", "2"})


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("rating", lambda i: i % 5 + 1, "rating has 5 different numbers from 1 to 5, taken for labels"),
        # The first rows alone, from which the task is recognized, have whole numbers.
        ("label", lambda i: 4.5 if i > 40 else i % 3, "label has 4 different numbers from 0 to 4.5, 4.5 among them"),
        ("category", lambda i: 10 * (i % 12), "category has 12 different numbers from 0 to 110"),
        ("category", lambda i: i % 12, None),
        ("rating", lambda i: i % 2, None),
        ("rating", lambda i: "good" if i % 2 else "7", None),
    ],
)
def test_numbers_that_may_be_a_scale_are_named_with_the_remedy(
    column: str,
    value: Callable[[int], Any],
    words: str | None,
    models: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "SAMPLE_ROWS", 30)
    content = ({"text": TEXTS[i % len(TEXTS)], column: value(i)} for i in range(60))
    source, model = str(write_table(tmp_path / "all.csv", content)), models["encoder"]
    found = describe(source, task=None, model=model, columns={}, splits={})
    assert found.config.task == "text-classification"
    [warning] = [each for each in found.warnings if "scale" in each] or [""]
    assert warning.startswith(words) if words else not warning
    if words:
        assert warning.endswith(f"; if they are a scale, give --task regression --columns score={column}")
        second = describe(source, task="regression", model=model, columns={"score": column}, splits={})
        assert second.config.columns == {"score": column}
        said = describe(source, task="text-classification", model=model, columns={}, splits={})
        assert not [each for each in said.warnings if "scale" in each]


def test_a_long_input_gets_no_more_than_the_models_positions(models: dict[str, str], tmp_path: Path) -> None:
    source = write_rows(tmp_path / "all.jsonl", rows(lambda i: {"text": "one " * 900, "label": "ab"[i % 2]}))
    found = describe(str(source), task=None, model=models["encoder"], columns={}, splits={})
    [length] = found.lengths
    assert length.longest > 900
    assert found.config.max_length == length.suggested == POSITIONS


@pytest.mark.parametrize(
    ("name", "content", "arguments", "words"),
    [
        ("a.csv", "A good film,positive\nBad,negative\nYes,positive\n", (), ["first row of a.csv looks like data"]),
        ("a.csv", "text;score\n" + "fine;3,5\n" * 12, (), ["row 1: score is '3,5'", "write a decimal point: 3.5"]),
        ("a.csv", "text,labels\n" + "fine,\"['a']\"\n" * 12, (), ["labels must be lists", "JSONL"]),
        ("a.csv", "n\n1\n2\n", (), ["fit no task: n (integer)", "--task T --columns"]),
        ("a.csv", "text\nfine\nbad\n", (), ["text-generation", "needs a generative model", "--model openai"]),
        ("a.jsonl", '{"text": " ", "label": "b"}\n{"text": "", "label": "c"}\n', (), ["text (empty), label (string)"]),
        ("a.jsonl", '{"x": 1}\n', ("--task", "translation"), ["do not fit translation: x (integer)", "--columns"]),
        ("a.jsonl", '{"text": "a", "label": "b"}\n', (), ["a.jsonl has 1 rows, too few to split"]),
        ("a.jsonl", "no json\n", (), ["a.jsonl cannot be read", "line 1 is not JSON"]),
        ("a.jsonl", '{"text": "a"}\n', ("--task", "poetry"), ["'poetry' is not a task", "choose among"]),
        ("a.jsonl", '{"text": "a"}\n', ("--columns", "label=b"), ["a.jsonl has no column 'b', only 'text'"]),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_gives_one_line(
    name: str, content: str, arguments: Sequence[str], words: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    done = tuneport("init", tmp_path / name, "--out", tmp_path / "f.toml", *arguments)
    assert done.code == 1
    assert_one_line(done.err, *words)
    assert not (tmp_path / "f.toml").exists()


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text("mine")
    source = write_rows(tmp_path / "all.jsonl", rows(DATA["label"][0]))
    done = tuneport("init", source, "--out", tmp_path / "f.toml", "--model", str(tmp_path))
    assert done.code == 1
    assert (tmp_path / "f.toml").read_text() == "mine"


def test_names_with_odd_characters_stay_toml_and_comments() -> None:
    odd = {"text": 'a "b"\n\x7f = #', "label": ["\\", "ä", "\x00"]}
    assert tomllib.loads(f"value = {to_toml(odd)}")["value"] == odd


def test_nothing_is_recognized_without_columns() -> None:
    with pytest.raises(DataError, match="fit no task"):
        recognize([], None, "nothing")
