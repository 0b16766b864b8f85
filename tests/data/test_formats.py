"""Rows survive every format, and what is no row is named: property tests, and files as people have them."""

import csv
import gzip
import json
import string
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kit.data import write_rows, write_splits

from tuneport.data.conll_rows import read_conll
from tuneport.data.files import load_file
from tuneport.data.json_rows import read_json, read_json_lines
from tuneport.data.reader import Data, read_data
from tuneport.data.table_rows import read_csv, read_tsv
from tuneport.errors import DataError

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
COLUMNS = ("a", "b")


def rows_of(cell: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, cell)), min_size=1, max_size=6)


def load(path: Path) -> list[dict[str, Any]]:
    return list(load_file(path, COLUMNS).rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For property tests, which run many times in one test."""
    return tmp_path_factory.mktemp("formats")


def written(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def assert_rows_or_one_line(path: Path) -> None:
    problem = ""
    try:
        load(path)
    except DataError as error:
        problem = str(error)
    assert "\n" not in problem


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@quick
@given(rows_of(values))
@example([{"a": 1, "b": []}, {"a": "x", "b": ["y"]}])
@example([{"a": 1, "b": 2}, {"a": 1.5, "b": None}])
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
    assert load(path) == rows


def one_line(text: str) -> str:
    return "".join(char for char in text if char not in "\t\r\n")


@quick
@given(rows_of(texts.map(one_line)))
@example([{"a": '"Go', "b": "1"}, {"a": 'home"', "b": "0"}])
@example([{"a": 'he said "no', "b": "1"}])
@example([{"a": '"', "b": '"'}, {"a": '"', "b": ""}])
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
    assert load(path) == rows


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


def _read(source: Path, **options: Any) -> Data:
    return read_data(
        str(source), **{"columns": {}, "required": ("text", "label"), "optional": (), "seed": 0, **options}
    )


ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(20)]


@pytest.mark.parametrize("label", [-1, "", None, "-1"])
def test_a_test_split_without_labels_is_left_out(tmp_path: Path, label: Any) -> None:
    hidden = [{"text": "a", "label": label}, {"text": "b", "label": label}]
    data = _read(write_splits(tmp_path, train=ROWS, test=hidden))
    assert data.splits.keys() == {"train", "validation"}
    assert data.warnings == ("test.jsonl has no targets, so there is no test split",)
    one_has = _read(write_splits(tmp_path, train=ROWS, test=[*hidden, ROWS[0]]))
    assert "test" in one_has.splits


@pytest.mark.parametrize(
    ("column", "known", "hidden"),
    [
        ("score", 3.5, -1.0),
        ("tags", ["O", "B-X"], [-1, -1]),
        ("tags", ["O", "B-X"], []),
        ("answers", {"text": ["a"], "answer_start": [0]}, {"text": [], "answer_start": []}),
        ("labels", ["x"], []),
        ("target", "a", ""),
    ],
)
def test_placeholders_of_every_task_are_known(tmp_path: Path, column: str, known: Any, hidden: Any) -> None:
    train, test = [{"text": "a", column: known}] * 20, [{"text": "b", column: hidden}] * 2
    options = {"required": ("text", column)}
    assert "test" not in _read(write_splits(tmp_path, train=train, test=test), **options).splits
    without = [{"text": "b"}]
    assert "test" not in _read(write_splits(tmp_path, train=train, test=without), **options).splits
    # What train has, too, is a target: unanswerable questions, no label, the class -1.
    data = _read(write_splits(tmp_path, train=[*train, {"text": "b", column: hidden}], test=test), **options)
    assert "test" in data.splits


def test_a_hidden_class_of_the_hub_is_a_placeholder(tmp_path: Path) -> None:
    typed = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    splits = {
        "train": [{"text": "a", "label": i % 2} for i in range(20)], "validation_matched": [{"text": "a", "label": 1}],
        "validation_mismatched": [{"text": "b", "label": 0}], "test_matched": [{"text": "b", "label": -1}],
    }  # fmt: skip
    saved = {name: datasets.Dataset.from_list(rows, features=typed) for name, rows in splits.items()}
    datasets.DatasetDict(saved).save_to_disk(str(tmp_path / "mnli"))
    names = {"validation": "validation_mismatched", "test": "test_matched"}
    data = _read(tmp_path / "mnli", splits=names)
    assert list(data.splits["validation"]) == [{"text": "b", "label": "no"}]
    assert data.splits.keys() == {"train", "validation"}
    assert data.warnings == ("mnli (test_matched) has no targets, so there is no test split",)
    assert data.source.splits == names


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    write_splits(tmp_path, train=ROWS, dev_a=ROWS[:2], dev_b=ROWS[:3], test=ROWS[:4])
    assert len(_read(tmp_path, splits={"validation": "dev_b"}).splits["validation"]) == 3
    assert len(_read(tmp_path, splits={"validation": "dev_a.jsonl"}).splits["validation"]) == 2
    with pytest.raises(DataError, match=r"has no 'dev_c' for validation, only dev_a\.jsonl, dev_b\.jsonl, test\.jsonl"):
        _read(tmp_path, splits={"validation": "dev_c"})
    with pytest.raises(DataError, match=r"--splits names \['valid'\]; name train, validation, test"):
        _read(tmp_path, splits={"valid": "dev_a"})
    with pytest.raises(DataError, match="has no splits, and --splits names some"):
        _read(tmp_path / "train.jsonl", splits={"validation": "dev_a"})


def test_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "train.CSV").write_text("text,label\n" + "".join(f"a,{i % 2}\n" for i in range(12)))
    (tmp_path / "dev.JSONL.GZ").write_bytes(gzip.compress(b'{"text": "a", "label": "1"}'))
    assert _read(tmp_path).source.rows == {"train": 12, "validation": 1}


def test_a_folder_without_train_says_what_it_has(tmp_path: Path) -> None:
    for i in range(13):
        write_rows(tmp_path / f"part{i:02}.jsonl", ROWS)
    with pytest.raises(DataError, match=r"no train file or split, only part00\.jsonl, .*part09\.jsonl and 3 more"):
        _read(tmp_path)


def test_a_file_with_none_of_the_columns_that_a_task_chooses_from_names_its_own(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.jsonl", [{"conversation": "hello"}] * 12)
    with pytest.raises(DataError, match=r"x\.jsonl has no column 'text' and no 'messages', only 'conversation'"):
        _read(file, required=(), optional=("text", "messages"))
    assert len(_read(file, required=(), optional=("text",), columns={"text": "conversation"}).splits["train"]) == 9


def test_a_missing_column_is_named_with_its_own_name_in_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text;stars\n" + "good film;3\n" * 12)
    with pytest.raises(DataError) as error:
        _read(tmp_path / "x.csv")
    problem = "x.csv has no column 'label', only 'text', 'stars' (separated by ';')"
    assert str(error.value) == f"{problem}; rename with --columns label=YOUR_COLUMN"
