"""Messages on data as people have it: what is wrong, in which row of which file, and what to do."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from kit.data import write_rows

from tuneport.data.reader import Data, read_data
from tuneport.data.rows import numbered_rows, with_string_labels
from tuneport.errors import DataError
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.tasks import all_tasks, task_spec

ROWS: dict[str, dict[str, Any]] = {
    "text-classification": {"text": "a b", "label": "x"},
    "regression": {"text": "a b", "score": 1.0},
    "token-classification": {"tokens": ["a", "b"], "tags": ["B-X", "O"]},
    "question-answering": {"context": "a b", "question": "c?", "answers": {"text": ["a"], "answer_start": [0]}},
    "translation": {"source": "a b", "target": "c"},
    "summarization": {"source": "a b", "target": "c"},
    "text-generation": {"text": "a b"},
    "automatic-speech-recognition": {"audio": "absent.wav", "target": "a"},
}
"""A good row of each task; that of speech names a file that is not there, so that every row is wrong."""
SPOILT: dict[str, dict[str, Any]] = {
    "text-classification": {"text": " "},
    "regression": {"text": " "},
    "token-classification": {"tags": ["B-X"]},
    "question-answering": {"answers": {"text": ["b"], "answer_start": [0]}},
    "translation": {"target": ""},
    "summarization": {"source": ""},
    "text-generation": {"text": ""},
    "automatic-speech-recognition": {},
}


def read(source: Path, task: str, columns: Mapping[str, str] | None = None) -> Data:
    spec = task_spec(task)
    return read_data(str(source), columns=columns or {}, required=spec.columns, optional=spec.optional_columns, seed=3)


def refusal(source: Path, task: str) -> str:
    config = FinetuneConfig(task=task, model="m", data=str(source))
    with pytest.raises(DataError) as found:
        task_spec(task).task_class("finetune")(read(source, task), config)
    return str(found.value)


def test_every_task_is_here() -> None:
    assert ROWS.keys() == SPOILT.keys() == {name for name, spec in all_tasks().items() if spec.package is None}


def test_a_message_lists_the_first_rows_of_a_file_that_was_shuffled(tmp_path: Path) -> None:
    rows = [{"text": "" if i % 2 else "a b", "label": "xy"[i // 2 % 2]} for i in range(60)]
    message = refusal(write_rows(tmp_path / "x.jsonl", rows), "text-classification")
    assert re.findall(r"row (\d+)", message) == ["2", "4", "6", "8", "10"]
    assert "(and 25 more)" in message


@pytest.mark.parametrize("task", sorted(ROWS.keys() - {"automatic-speech-recognition"}))
def test_a_message_names_the_row_of_a_single_file_that_was_shuffled(task: str, tmp_path: Path) -> None:
    rows = [{**ROWS[task], **({"label": "xy"[i % 2]} if "label" in ROWS[task] else {})} for i in range(40)]
    rows[16] |= SPOILT[task]
    rows[31] |= SPOILT[task]
    message = refusal(write_rows(tmp_path / "all.jsonl", rows), task)
    assert "row 17:" in message
    assert "row 32:" in message
    assert message.count(" row ") == 2


def test_labels_that_become_strings_keep_the_numbers_of_their_rows(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "all.jsonl", [{"text": f"text {i}", "label": i % 2} for i in range(1, 41)])
    train = read(source, "text-classification").splits["train"]
    converted = with_string_labels(train)
    assert [(number, row["text"]) for number, row in numbered_rows(converted)] == [
        (number, row["text"]) for number, row in numbered_rows(train)
    ]
    assert all(row["text"] == f"text {number}" for number, row in numbered_rows(converted))
    assert set(converted["label"]) == {"0", "1"}


@pytest.mark.parametrize(
    ("task", "content", "words"),
    [
        ("text-classification", "text,labels\nfine,\"['a', 'b']\"\n", ['"labels": ["a", "b"]', "labels must be lists"]),
        ("token-classification", "tokens;tags\nAnn sleeps;B-PER O\n", ["tokens and tags must be lists", "JSONL"]),
        ("text-generation", 'messages\n"[{}]"\n', ["messages must be lists", "JSONL"]),
        ("regression", 'text;score\nfine;3,5\nbad;"-1,25"\n', ["row 1: score is '3,5'", "a decimal point: 3.5"]),
        ("regression", 'text,score\nfine,"[1, 2]"\n', ["row 1", '"score": [0.5, 2.0]']),
        ("regression", "text,score\nfine,good\n", ["row 1: score is 'good'", "correct these rows, or rename"]),
        ("text-classification", "A good film,positive\nBad,negative\nYes,positive\n", ["first row", "as text,label"]),
        ("regression", "Fine;0.5\nBad;0.1\n", ["first row looks like data", "such as text;score"]),
        ("translation", "Wie geht es dir heute?\tHow are you today?\nGut\tFine\n", ["such as source\ttarget"]),
        ("text-classification", "review,stars\nfine,1\n", ["no column 'text'", "--columns text=YOUR_COLUMN"]),
    ],
)  # fmt: skip
def test_tables_that_people_have_get_the_remedy_that_helps(
    task: str, content: str, words: Sequence[str], tmp_path: Path
) -> None:
    file = tmp_path / ("train.tsv" if "\t" in content else "train.csv")
    file.write_text(content, encoding="utf-8")
    message = refusal(file, task)
    assert [word for word in words if word.replace("\t", " ") not in message.replace("\t", " ")] == [], message


def test_a_remedy_is_given_once_however_many_cells_need_it(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("text;score\n" + "".join(f"text {i};{i},5\n" for i in range(40)), encoding="utf-8")
    message = refusal(file, "regression")
    assert "(and 35 more)" in message
    assert message.count("write a decimal point") == 1


def test_a_header_is_not_taken_for_data(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(20)))
    assert read(tmp_path / "train.csv", "text-classification").splits["train"].num_rows == 16


def _shards(folder: Path, count: int, total: int, split: str = "train") -> None:
    for number in range(count):
        rows = [{"text": f"{split} {number} {i}", "label": "ab"[i % 2]} for i in range(6)]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}-{number:05}-of-{total:05}.parquet")


def test_shards_in_parquet_are_one_split_in_their_order(tmp_path: Path) -> None:
    _shards(tmp_path, 3, 3)
    _shards(tmp_path, 1, 1, "test")
    data = read(tmp_path, "text-classification")
    texts = {row["text"]: number for number, row in numbered_rows(data.splits["train"])}
    texts |= {row["text"]: number for number, row in numbered_rows(data.splits["validation"])}
    assert len(texts) == 18
    assert (texts["train 0 0"], texts["train 1 0"], texts["train 2 5"]) == (1, 7, 18)
    assert data.files["train"] == "train-*-of-00003.parquet"
    assert data.files["test"] == "test-00000-of-00001.parquet"


def test_a_missing_shard_and_two_forms_of_a_split_are_named(tmp_path: Path) -> None:
    _shards(tmp_path, 2, 3)
    with pytest.raises(DataError, match=r"has 2 of 3 files of train; add train-00002-of-00003.parquet"):
        read(tmp_path, "text-classification")
    _shards(tmp_path, 3, 3)
    (tmp_path / "train.jsonl").write_text(json.dumps(ROWS["text-classification"]))
    with pytest.raises(DataError, match=r"train.jsonl and train-\*-of-00003.parquet for one split"):
        read(tmp_path, "text-classification")
