"""Data in every form, and every way in which it can be wrong, with the words that a user reads."""

from pathlib import Path

import datasets
import pytest
from helpers import tuneport, write_rows

from export.files import DataError, TuneportError
from finetune.config import load_config
from finetune.data import Data, read_data, rows_of

ROWS = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]


def _read(source: Path | str, **columns: str) -> Data:
    return read_data(str(source), columns=columns, required=("text", "label"), optional=("text_pair",), seed=0)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_format_reads_the_same(tmp_path: Path, suffix: str) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    file = tmp_path / f"train.{suffix}"
    write = {"csv": rows.to_csv, "parquet": rows.to_parquet}.get(suffix, rows.to_json)
    write(str(file))
    write_rows(tmp_path / "test.jsonl", ROWS[:2])
    data = _read(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 18, "validation": 2, "test": 2}
    assert sorted(row["text"] for name in ("train", "validation") for row in data.splits[name]) == sorted(
        row["text"] for row in ROWS
    )


def test_columns_are_renamed_and_others_left_out(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.jsonl", [{"review": r["text"], "stars": 3, "id": 7} for r in ROWS])
    data = _read(file, text="review", label="stars")
    assert data.splits["train"].column_names == ["text", "label"]


def test_na_and_null_in_a_csv_are_texts(tmp_path: Path) -> None:
    lines = ["text,label", *(f"{word},{i % 2}" for i, word in enumerate(["NA", "null", "None", "nan"] * 3))]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "validation.csv").write_text("\n".join(lines) + "\n")
    assert {row["text"] for row in _read(tmp_path).splits["train"]} == {"NA", "null", "None", "nan"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.jsonl", b"", ["train.jsonl is empty"]),
        ("train.jsonl", b'{"text": "a", "label": 1}\n{"text": "caf\xe9"}\n', ["not UTF-8", "0xe9", "line 2", "iconv"]),
        ("train.jsonl", b'{"text": "a", "label": 1}\nhello\n', ["line 2 is not JSON", "hello"]),
        ("train.jsonl", b'{"text": "a", "label": 1}\n[1]\n', ["line 2 is not an object"]),
        ("train.csv", b"text,label\n", ["train.csv has no rows"]),
        ("train.csv", b"text,label\na,b\na,b,c,d\n", ["train.csv cannot be read", "line 3"]),
        ("train.parquet", b"not parquet", ["train.parquet cannot be read"]),
        (
            "train.jsonl",
            b'{"texts": "a", "label": 1}\n' * 20,
            ["no column ['text']", "['texts', 'label']", "--columns"],
        ),
        ("other.jsonl", b'{"text": "a"}\n', ["no train file"]),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        _read(tmp_path)
    for word in words:
        assert word in str(error.value)


def test_rows_are_numbered_as_in_their_file(tmp_path: Path) -> None:
    """Whatever split they were drawn into."""
    file = write_rows(tmp_path / "x.jsonl", ROWS)
    (tmp_path / "folder").mkdir()
    write_rows(tmp_path / "folder" / "train.jsonl", ROWS)
    for data in (_read(file), _read(tmp_path / "folder")):
        numbers = []
        for rows in data.splits.values():
            for number, row in rows_of(rows):
                assert row["text"] == f"text {number - 1}"
                numbers.append(number)
        assert sorted(numbers) == list(range(1, 21))
    assert _read(tmp_path / "folder").files == {"train": "train.jsonl", "validation": "train.jsonl (validation)"}
    assert _read(file).files["test"] == "x.jsonl (test)"


def test_absent_sources_and_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        _read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="neither a path nor a data set"):
        _read("no-such/data-set")
    file = write_rows(tmp_path / "x.jsonl", ROWS)
    with pytest.raises(DataError, match="colour"):
        _read(file, colour="label")
    with pytest.raises(DataError, match="too few to split"):
        _read(write_rows(tmp_path / "few.jsonl", ROWS[:5]))


def test_settings_report_all_errors_at_once(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('task = "text-classification"\nmodel = "m"\nlearning_rate = -1\n')
    with pytest.raises(TuneportError) as error:
        load_config(file, ["num_epochs=3", "seed=first"], {})
    for part in ("learning_rate", "num_epochs is not a setting", "seed", "data is missing"):
        assert part in str(error.value)


def test_flags_outweigh_settings_and_settings_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('task = "text-classification"\nmodel = "m"\ndata = "d"\nseed = 1\nmax_length = 16\n')
    config = load_config(file, ["seed=2", "model=set", "max_length=32"], {"model": "flag", "data": None})
    assert (config.seed, config.model, config.data, config.max_length) == (2, "flag", "d", 32)


def test_a_wrong_row_is_one_line_on_stderr_and_exit_code_1(tmp_path: Path, base: Path) -> None:
    file = write_rows(tmp_path / "x.jsonl", [*ROWS, {"text": "", "label": "a"}])
    done = tuneport(
        "finetune", "--task", "text-classification", "--model", base, "--data", file, "--out", tmp_path / "o"
    )
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "empty string" in done.err
    assert not (tmp_path / "o").exists()
