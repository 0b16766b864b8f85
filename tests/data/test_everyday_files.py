"""Files as people have them: exports of Excel and pandas, other encodings and types. Each works or says what to do."""

import gzip
import json
import tomllib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from kit.command import assert_one_line, tuneport
from kit.encoders import tiny_encoder
from pyarrow import parquet

from tuneport.data.files import load_file
from tuneport.data.reader import read_data
from tuneport.errors import DataError
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.init.columns import describe_columns
from tuneport.stages.finetune.init.recognize import recognize
from tuneport.tasks import task_spec

TEXTS = tuple(f"a good film, part {i}" for i in range(12))
LABELS = ("good", "bad") * 6


def read(file: Path, task: str = "text-classification", **columns: str) -> list[dict[str, Any]]:
    """Read a file as training does, its rows in the order of the file; checks every row as training does."""
    spec = task_spec(task)
    data = read_data(str(file), columns=columns, required=spec.columns, optional=spec.optional_columns, seed=0)
    task_class = spec.task_class("finetune")
    task_class(data, FinetuneConfig(task=task, model="m", data=str(file), columns=columns))
    rows = [row for split in data.splits.values() for row in split]
    return sorted(rows, key=lambda row: int(str(row["text"]).split()[-1]))


def refusal(file: Path, task: str = "text-classification", **columns: str) -> str:
    with pytest.raises(DataError) as found:
        read(file, task, **columns)
    return str(found.value)


EXPECTED = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
SEMICOLONS = "text;label\r\n" + "".join(f"{text};{label}\r\n" for text, label in zip(TEXTS, LABELS, strict=True))
COMMAS = "text,label\r\n" + "".join(f'"{text}",{label}\r\n' for text, label in zip(TEXTS, LABELS, strict=True))
TABLES: dict[str, bytes] = {
    "bom.csv": b"\xef\xbb\xbf" + SEMICOLONS.encode(),
    "separator-line.csv": b"sep=;\r\n" + SEMICOLONS.encode(),
    "empty-rows.csv": f"{COMMAS},\r\n\r\n,\r\n".encode(),
    "empty-columns.csv": COMMAS.replace("\r\n", ",,\r\n").encode(),
    "old-mac.csv": COMMAS.replace("\r\n", "\r").encode(),
    "packed.csv.gz": gzip.compress(COMMAS.encode()),
    "array.json": json.dumps(EXPECTED).encode(),
    "array.json.gz": gzip.compress(json.dumps(EXPECTED, indent=2).encode()),
    "pandas.json": pd.DataFrame(EXPECTED).to_json(orient="records").encode(),
    "index.csv": pd.DataFrame(EXPECTED).to_csv().encode(),
    "index-again.csv": pd.DataFrame(EXPECTED).reset_index(names="Unnamed: 0").to_csv().encode(),
}


@pytest.mark.parametrize("name", TABLES)
def test_everyday_tables_have_the_rows_that_were_written(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(TABLES[name])
    assert read(file) == EXPECTED
    found = recognize(describe_columns(load_file(file, None)), None, name)
    assert (found.task, found.renamed) == ("text-classification", {})


def test_a_cell_may_have_line_breaks_and_quotes(tmp_path: Path) -> None:
    cells = [f'"He said ""go"",\nthen, {i}"' for i in range(10)]
    (tmp_path / "x.csv").write_text("text,label\n" + "".join(f"{cell},{'ab'[i % 2]}\n" for i, cell in enumerate(cells)))
    assert [row["text"] for row in read(tmp_path / "x.csv")] == [f'He said "go",\nthen, {i}' for i in range(10)]


FRAMES: dict[str, tuple[Any, list[Any]]] = {
    "booleans": ([True, False] * 6, ["True", "False"] * 6),
    "categories": (pd.Categorical(LABELS), list(LABELS)),
    "fractions": ([1.0, 0.0] * 6, [1, 0] * 6),
    "small integers": (pd.array([1, 2] * 6, dtype="UInt8"), [1, 2] * 6),
    "decimals": ([Decimal("1.00"), Decimal("2.00")] * 6, [1, 2] * 6),
    "strings of Arrow": (pd.array(LABELS, dtype=pd.ArrowDtype(pa.large_string())), list(LABELS)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_labels_of_pandas_are_read_from_parquet(name: str, tmp_path: Path) -> None:
    values, expected = FRAMES[name]
    order = [1, 0, *range(2, 12)]  # so that the index is kept as a column
    frame = pd.DataFrame({"text": TEXTS, "label": values}).iloc[order]
    frame.to_parquet(tmp_path / "x.parquet")
    assert parquet.read_schema(tmp_path / "x.parquet").names[-1] == "__index_level_0__"
    assert [row["label"] for row in read(tmp_path / "x.parquet")] == expected
    found = recognize(describe_columns(load_file(tmp_path / "x.parquet", None)), None, "x")
    assert (found.task, found.columns) == ("text-classification", {"text": "text", "label": "label"})


def test_true_and_false_of_json_are_labels_as_in_pandas(tmp_path: Path) -> None:
    rows = [{"text": text, "label": i % 2 == 0} for i, text in enumerate(TEXTS)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame(rows).to_csv(tmp_path / "x.csv", index=False)
    assert read(tmp_path / "x.jsonl") == read(tmp_path / "x.csv")
    assert [row["label"] for row in read(tmp_path / "x.csv")] == ["True", "False"] * 6


@pytest.mark.parametrize("scores", [[Decimal("0.25"), Decimal("1.50")] * 6, [0.25, 1.5] * 6])
def test_scores_may_be_decimals(scores: list[Any], tmp_path: Path) -> None:
    pd.DataFrame({"text": TEXTS, "score": scores}).to_parquet(tmp_path / "x.parquet")
    assert [row["score"] for row in read(tmp_path / "x.parquet", "regression")] == [0.25, 1.5] * 6


def test_columns_of_any_type_may_stand_beside_those_of_the_task(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": TEXTS,
            "label": LABELS,
            "extra": pa.array([[("k", 1)]] * 12, pa.map_(pa.string(), pa.int64())),
            "when": pa.array([0] * 12, pa.date32()),
            "nested": [{"a": [1]}] * 12,
        }
    )
    parquet.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == EXPECTED
    found = recognize(describe_columns(load_file(tmp_path / "x.parquet", None)), None, "x")
    assert found.columns == {"text": "text", "label": "label"}
    assert "'extra' has the type map<string, int64" in refusal(tmp_path / "x.parquet", label="extra")


def frame(file: Path, **columns: Any) -> None:
    pd.DataFrame({"text": TEXTS, **columns}).to_parquet(file)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([None, *LABELS[1:]], ["row 1: label is None", "remove the rows that have no label"]),
        ([1.5, 0.5] * 6, ["label is 1.5", "--task regression --columns score=YOUR_COLUMN"]),
        (pd.to_datetime(["2024-01-01", "2024-01-02"] * 6), ["label is datetime", "write the labels as strings"]),
        ([["a"], ["b"]] * 6, ["label is ['a']", "--columns labels=YOUR_COLUMN"]),
    ],
)
def test_values_that_are_no_labels_get_the_remedy_that_helps(labels: Any, words: Sequence[str], tmp_path: Path) -> None:
    frame(tmp_path / "x.parquet", label=labels)
    message = refusal(tmp_path / "x.parquet")
    assert [word for word in words if word not in message] == [], message


def test_scores_of_true_and_false_are_classes(tmp_path: Path) -> None:
    frame(tmp_path / "x.parquet", score=[True, False] * 6)
    assert "--task text-classification --columns label=YOUR_COLUMN" in refusal(tmp_path / "x.parquet", "regression")


def test_a_text_that_is_none_or_a_number_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": null, "label": "a"}\n{"text": 5, "label": "b"}\n' * 6)
    message = refusal(tmp_path / "x.jsonl")
    assert all(found in message for found in ("row 1: text is None", "row 2: text is 5"))
    assert all(remedy in message for remedy in ("fill or remove the rows without text", "write text as a string"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", SEMICOLONS.replace("good", "très bon €").encode("cp1252"),
         ["not UTF-8: byte 0xe8 in line 2", "iconv -f WINDOWS-1252 -t UTF-8 x.csv > x-utf8.csv"]),
        ("my x.csv.gz", gzip.compress(SEMICOLONS.replace("good", "très").encode("cp1252")),
         ["gunzip -c 'my x.csv.gz' | iconv -f WINDOWS-1252 -t UTF-8 > 'my x-utf8.csv'"]),
        ("x.csv", SEMICOLONS.encode("utf-16"), ["UTF-16", "iconv -f UTF-16 -t UTF-8 x.csv > x-utf8.csv"]),
        ("x.xlsx", b"PK\x03\x04", ["x.xlsx has a format that is not read", "save it as CSV UTF-8"]),
        ("x.zip", b"PK\x03\x04", ["unpack it, or compress it with gzip"]),
        ("x.pkl", b"\x80", ["write it with to_parquet"]),
        ("x.jsonl", json.dumps(EXPECTED, indent=1).encode(), ["as an array of rows does", "the suffix .json"]),
        ("x.json", pd.DataFrame(EXPECTED).to_json().encode(), ["in pandas with to_json(path, orient=\"records\")"]),
        ("x.txt", SEMICOLONS.replace(";", "\t").encode(), ["no column 'text'", "give a table the suffix .tsv"]),
        ("x.csv", SEMICOLONS.replace("text;label", "Text; Label ").encode(), ["--columns text=Text,label=Label"]),
        ("x.csv", SEMICOLONS.replace("text;label", "Text;My label").encode(), ["--columns text=Text"]),
        ("x.csv", SEMICOLONS.replace("text;label", "text;sentiment").encode(),
         ["neither label nor labels, only 'text', 'sentiment'", "--columns label=YOUR_COLUMN"]),
        ("x.csv", SEMICOLONS.replace("text;label", "text;Label").encode(), ["--columns label=Label"]),
        ("x.csv", SEMICOLONS.replace("bad", "good").encode(), ["one label, 'good'", "at least two classes"]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_what_to_do(name: str, content: bytes, words: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert [word for word in words if word not in message] == [], message


def test_a_folder_of_spreadsheets_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.xlsx").write_bytes(b"PK\x03\x04")
    assert "train.xlsx has a format that is not read; save it as CSV UTF-8" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("columns", "task", "renamed"),
    [
        ({"id": list(range(12)), "story": TEXTS}, "text-generation", {"text": "story"}),
        ({"id": list(range(12)), "story": TEXTS, "stars": [1.0, 2.0] * 6}, "text-classification",
         {"text": "story", "label": "stars"}),
        ({"story": TEXTS, "label": [1.0, None] * 6}, "text-classification", {"text": "story"}),
        ({"story": TEXTS, "price": [1.25, 2.5] * 6}, "regression", {"text": "story", "score": "price"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_row_numbers_and_fractions_do_not_mislead(
    columns: dict[str, Any], task: str, renamed: dict[str, str], suffix: str, tmp_path: Path
) -> None:
    table = pd.DataFrame(columns)
    table.to_csv(tmp_path / "x.csv", index=False)
    table.to_parquet(tmp_path / "x.parquet")
    found = recognize(describe_columns(load_file(tmp_path / f"x.{suffix}", None)), None, "x")
    assert (found.task, found.renamed) == (task, renamed)


def test_init_warns_of_labels_that_spaces_or_case_make_different(tmp_path: Path) -> None:
    lines = [f"{text};{label}" for text, label in zip(TEXTS * 4, ("good", "Good", " bad", "fine") * 12, strict=True)]
    (tmp_path / "x.csv").write_text("Review;Mood\n" + "\n".join(lines) + "\n;\n")
    model = tiny_encoder(tmp_path / "model")
    done = tuneport("init", tmp_path / "x.csv", "--out", tmp_path / "x.toml", "--model", str(model))
    assert done.code == 0, done.err
    assert "x.csv (train) has ['Good', 'good'], which differ only in spaces or case" in done.err
    assert "x.csv (train) has [' bad']: spaces are part of a label's name" in done.err
    settings = tomllib.loads((tmp_path / "x.toml").read_text(encoding="utf-8"))
    assert settings["columns"] == {"text": "Review", "label": "Mood"}


def test_init_of_a_spreadsheet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.xlsx").write_bytes(b"PK\x03\x04")
    assert_one_line(tuneport("init", tmp_path / "x.xlsx", "--out", tmp_path / "x.toml").err, "save it as CSV UTF-8")
