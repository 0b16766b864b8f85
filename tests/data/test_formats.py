"""Rows survive every format, and what is no row is one clear error: property tests."""

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kit.formats import COLUMNS, json_lines, load, written

from tuneport.data.conll_rows import read_conll
from tuneport.data.reader import read_data
from tuneport.errors import DataError

quick = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
characters = st.characters(codec="utf-8")
odd = st.sampled_from(['"', '""', "'", ",", ";", "\t", "|", "\n", "\r\n", "\r", "\\", "\x00", "\u2028", "\ufeff",
                       "e\u0301",
                       "👩‍👩‍👧", "{", "}", "NA",
                       "2020-01-01", "-1", " ", "\x85", "中文", "ไทย", "שלום", "#", "sep=;"])  # fmt: skip
texts = st.lists(st.one_of(st.text(characters, max_size=6), odd), max_size=5).map("".join)
# The JSON of `datasets` rounds the last digit of fractions, and its whole numbers have 64 bits.
fractions = st.integers(-1000, 1000).map(lambda eighths: eighths / 8)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**62), 2**62), fractions, texts)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner)), max_leaves=4
)


def rows_of(cell: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, cell)), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For property tests, which run many times in one test."""
    return tmp_path_factory.mktemp("formats")


def assert_rows_or_one_line(path: Path) -> None:
    problem = ""
    try:
        load(path)
    except DataError as error:
        problem = str(error)
    assert "\n" not in problem


def assert_rows_but_empty_ones(path: Path, rows: list[dict[str, Any]]) -> None:
    """Check the rows of a table, of which those without any text are skipped."""
    if filled := [row for row in rows if any(row.values())]:
        assert load(path) == filled
    else:
        with pytest.raises(DataError, match="no rows"):
            load(path)


@quick
@given(rows_of(values))
@example([{"a": 1, "b": []}, {"a": "x", "b": ["y"]}])
@example([{"a": 1, "b": 2}, {"a": 1.5, "b": None}])
@example([{"a": 2**53 + 1, "b": [2**53 + 1]}, {"a": 1.5, "b": [0.5, 1]}])
@example([{"a": 2**53 + 1, "b": -(2**62)}, {"a": 1, "b": True}])
@example([{"a": "2020-01-01", "b": "2021-01-01 10:00:00"}])
@example([{"a": {"x": 1}, "b": [{"role": "user"}, {"role": "user", "name": None}]}])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "array.json", "data.json", "x.jsonl.gz"])
def test_values_of_json_are_those_that_were_written(name: str, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Of every type, mixed within a column too; only a whole number among fractions becomes one."""
    documents = {"array.json": json.dumps(rows), "data.json": json.dumps({"data": rows}, indent=1)}
    path = written(folder / name, documents.get(name) or json_lines(rows))
    assert load(path) == rows


@quick
@given(rows_of(texts), st.sampled_from(",;\t|"), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_cells_of_a_csv_are_those_that_were_written(folder: Path, rows: Any, delimiter: str, quoting: Any) -> None:
    path = folder / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter, quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
    assert_rows_but_empty_ones(path, rows)


def one_line(text: str) -> str:
    return "".join(char for char in text if char not in "\t\r\n")


@quick
@given(rows_of(texts.map(one_line)))
@example([{"a": '"Go', "b": "1"}, {"a": 'home"', "b": "0"}])
@example([{"a": 'he said "no', "b": "1"}])
@example([{"a": '"', "b": '"'}, {"a": '"', "b": ""}])
@example([{"a": '"', "b": '"'}])
def test_a_tsv_without_quoting_keeps_its_quotes(folder: Path, rows: Any) -> None:
    if any(row["a"] == row["b"] == "" for row in rows) or all(is_quoted(row) for row in rows if has_quotes(row)):
        return
    path = written(folder / "x.tsv", "".join(f"{row['a']}\t{row['b']}\n" for row in [{"a": "a", "b": "b"}, *rows]))
    assert load(path) == rows


def has_quotes(row: dict[str, str]) -> bool:
    return any(cell.startswith('"') for cell in row.values())


def is_quoted(row: dict[str, str]) -> bool:
    """Whether the cells could be quoted ones, which the file then has."""
    try:
        [cells] = csv.reader([f"{row['a']}\t{row['b']}"], delimiter="\t", strict=True)
    except (csv.Error, ValueError):
        return False
    return len(cells) == 2


@quick
@given(rows_of(texts.filter(lambda text: not ("\t" in text and "\n" in text))))
def test_a_tsv_with_quoted_cells_is_read_as_such(folder: Path, rows: Any) -> None:
    path = folder / "x.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerows([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])
    assert_rows_but_empty_ones(path, rows)


@quick
@given(rows_of(st.one_of(st.none(), texts)), st.booleans())
def test_parquet_and_saved_data_sets_keep_their_rows(rows: Any, is_saved: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:  # datasets keeps what it read of a file of the same name
        typed = datasets.Features(dict.fromkeys(COLUMNS, datasets.Value("string")))
        whole = datasets.Dataset.from_list(rows, features=typed)
        if is_saved:
            datasets.DatasetDict({"train": whole, "dev": whole}).save_to_disk(f"{folder}/saved")
        else:
            whole.to_parquet(f"{folder}/train.parquet")
            whole.to_parquet(f"{folder}/dev.parquet")
        source = f"{folder}/saved" if is_saved else folder
        data = read_data(source, columns={}, required=COLUMNS, optional=(), seed=0)
        assert list(data.splits["train"]) == list(data.splits["validation"]) == rows


tokens = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=5)
sentences = st.lists(
    st.lists(st.tuples(tokens, st.sampled_from(["O", "B-PER", "I-PER"])), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@quick
@given(sentences, st.sampled_from(["\t", " "]), st.sampled_from(["", " NN B-NP"]))
@example([[("#", "O"), ("#tag", "B-PER")]], " ", "")
def test_conll_text_gives_the_sentences_back(folder: Path, sentences: Any, separator: str, between: str) -> None:
    blocks = [
        "".join(f"{word}{between.replace(' ', separator)}{separator}{tag}\n" for word, tag in sentence)
        for sentence in sentences
    ]
    path = written(folder / "x.conll", f"-DOCSTART- -X- O O\n\n# a comment of six words\n{chr(10).join(blocks)}")
    if any(word.startswith(("-DOCSTART-", "#")) for word, _ in sentences[0][:1]):
        return  # a first token that looks like a mark or a comment
    assert [list(zip(row["tokens"], row["tags"], strict=True)) for row in read_conll(path)] == sentences


@quick
@given(st.binary(max_size=60), st.sampled_from(["jsonl", "json", "csv", "tsv", "conll", "jsonl.gz"]))
def test_arbitrary_bytes_are_rows_or_one_clear_error(folder: Path, content: bytes, suffix: str) -> None:
    path = folder / f"x.{suffix}"
    path.write_bytes(content)
    assert_rows_or_one_line(path)


@quick
@given(st.text(st.sampled_from('[]{}",:\\ud80 \n0truenl-.e'), max_size=30))
def test_arbitrary_json_is_rows_or_one_clear_error(folder: Path, content: str) -> None:
    for name in ("x.json", "x.jsonl"):
        assert_rows_or_one_line(written(folder / name, content))
