"""Files as people have them, and files that cannot be read: what is wrong is named."""

import gzip
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from kit.data import write_rows
from kit.formats import json_lines, load

from tuneport.data.files import load_file
from tuneport.data.json_rows import read_json, read_json_lines
from tuneport.data.table_rows import read_csv, read_tsv
from tuneport.errors import DataError


def test_empty_lines_of_json_lines_and_tables_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('\n{"a": 1}\n\n  \n{"a": 2}\n\n')
    assert [row["a"] for row in read_json_lines(tmp_path / "x.jsonl")] == [1, 2]
    (tmp_path / "x.csv").write_text("\na,b\n\n1,2\n\n\n3,4\n")
    assert list(read_csv(tmp_path / "x.csv")) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
def test_cells_of_megabytes_are_read(tmp_path: Path, suffix: str) -> None:
    rows = [{"a": "x" * 3_000_000, "b": '"' * 300_000}, {"a": "", "b": "y"}]
    if suffix == "csv":
        datasets.Dataset.from_list(rows).to_csv(str(tmp_path / "x.csv"))
    else:
        (tmp_path / f"x.{suffix}").write_text(json_lines(rows))
    assert load(tmp_path / f"x.{suffix}") == rows


def test_a_type_that_changes_late_is_the_type_of_all(tmp_path: Path) -> None:
    """Readers that look at the first megabytes fail here."""
    early = [{"a": None, "b": 1, "c": []} for _ in range(2_500)]
    file = write_rows(tmp_path / "x.jsonl", [*early, {"a": "x", "b": 1.5, "c": ["y"]}])
    rows = load_file(file, ("a", "b", "c")).rows
    assert rows[-1] == {"a": "x", "b": 1.5, "c": ["y"]}
    assert rows[0] == {"a": None, "b": 1.0, "c": []}


def test_columns_that_are_not_read_may_hold_anything(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": 2, "meta": 3}, {"a": 1, "b": 2, "meta": {"x": []}}, {"a": 1, "b": 2, "meta": [{}, "y"]}]
    assert load(write_rows(tmp_path / "x.jsonl", rows)) == [{"a": 1, "b": 2}] * 3


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    for value in ("first", "later"):
        (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(json.dumps({"a": value}).encode(), mtime=0))
        assert load(tmp_path / "x.jsonl.gz") == [{"a": value}]


SQUAD = {
    "version": "2.0",
    "data": [
        {
            "title": "Oslo",
            "paragraphs": [
                {
                    "context": "Oslo is in Norway.",
                    "qas": [
                        {"id": 1, "question": "Where?", "answers": [{"text": "Norway", "answer_start": 11}]},
                        {"id": 2, "question": "Who?", "is_impossible": True, "answers": [{"text": "x"}]},
                    ],
                }
            ],
        }
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_squads_articles_become_a_row_for_each_question(tmp_path: Path, indent: int | None) -> None:
    (tmp_path / "x.json").write_text(json.dumps(SQUAD, indent=indent))
    first, second = load_file(tmp_path / "x.json", ("context", "question", "answers")).rows
    assert first == {
        "context": "Oslo is in Norway.", "question": "Where?", "answers": {"text": ["Norway"], "answer_start": [11]},
    }  # fmt: skip
    assert second["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", '{"a": {"0": 1}}\n', "x.jsonl"),
        ("x.json", '{"train": [],\n "test": []}', "x.json is an object with ['train', 'test']; give an array of rows"),
        ("x.json", '[{"a": 1}, 2]', "row 2 is not an object: 2"),
        ("x.json", '[{"a": 1},\n{"a": }]', "it is not JSON (Expecting value: line 2 column 7"),
        ("x.json", '{"data": [{"paragraphs": [{"context": "c", "qas": [{}]}]}]}', "article 1 is not in SQuAD's form"),
        ("x.json", "7", "x.json is 7; give an array"),
        ("x.jsonl", "[" * 100_000, "nested too deeply"),
        ("x.csv", 'a,b\n"x,1\ny,2\n', "unexpected end of data in row 1, which ends in line 3"),
        ("x.csv", 'a,b\n1,2\n"x"y,1\n', "in row 2, which ends in line 3; close the quotes"),
        ("x.csv", "a,a\n1,2\n", "several columns named 'a'"),
        ("x.csv", "a;b\n1;2;3\n", "row 1 (line 2) has 3 cells and the header 2, separated by ';'"),
        ("x.conll", "anna\n", "'anna' is not a token and its tag; separate them"),
        ("x.conll", "anna PER\n\nben met PER\n", "line 3 has 3 columns and the first line 2: 'ben met PER'"),
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), "x.jsonl is UTF-16, and UTF-8 is expected; convert"),
        ("x.csv", "a,b\n", "x.csv has no rows"),
        ("x.conll", "\n\n", "x.conll has no rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if words == "x.jsonl":  # a single object without rows is JSON Lines of one row
        assert load(tmp_path / name) == [{"a": {"0": 1}}]
        return
    with pytest.raises(DataError) as error:
        load(tmp_path / name)
    assert words in str(error.value)


def test_a_parquet_file_without_rows_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"a": [], "b": []}).to_parquet(str(tmp_path / "x.parquet"))
    with pytest.raises(DataError, match=r"x\.parquet has no rows"):
        load(tmp_path / "x.parquet")


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps({"a": string.printable * 200}).encode())
    for content in (whole[:40], b"not gzip", whole[:-6] + b"123456"):
        (tmp_path / "x.jsonl.gz").write_bytes(content)
        with pytest.raises(DataError, match="is not a complete gzip file"):
            load(tmp_path / "x.jsonl.gz")


READ: dict[str, Callable[[Path], Any]] = {"csv": read_csv, "tsv": read_tsv, "json": read_json}


@pytest.mark.parametrize(
    ("suffix", "content", "rows"),
    [
        ("csv", "\ufeffa , b\n1,2\n", [{"a": "1", "b": "2"}]),
        ("csv", "sep=;\na;b\n1,5;2\n", [{"a": "1,5", "b": "2"}]),
        ("csv", '"a";"b"\n"x;y";"2"\n', [{"a": "x;y", "b": "2"}]),
        ("csv", "a\tb\nx, y\t2\n", [{"a": "x, y", "b": "2"}]),
        ("csv", ',a,b\n0,"x\ny",2\n', [{"": "0", "a": "x\ny", "b": "2"}]),
        ("csv", "a,b\r\n1,2\r\n3\r\n", [{"a": "1", "b": "2"}, {"a": "3", "b": ""}]),
        ("csv", "a,b\n1,2,\n", [{"a": "1", "b": "2"}]),
        ("tsv", 'a\tb\n"Go\t1\nhome"\t0\n', [{"a": '"Go', "b": "1"}, {"a": 'home"', "b": "0"}]),
        ("tsv", 'a\tb\n"x ""y"""\t1\n', [{"a": 'x "y"', "b": "1"}]),
        ("json", '\ufeff[{"a": 1}]', [{"a": 1}]),
    ],
)
def test_files_as_spreadsheets_write_them(tmp_path: Path, suffix: str, content: str, rows: Any) -> None:
    (tmp_path / f"x.{suffix}").write_bytes(content.encode())
    assert list(READ[suffix](tmp_path / f"x.{suffix}")) == rows
