"""Data in every form, and every way in which it can be wrong, with the words that a user reads."""

import logging
from pathlib import Path

import datasets
import pytest
from kit.command import tuneport
from kit.data import write_rows

from tuneport.data.reader import Data, read_data
from tuneport.data.rows import numbered_rows
from tuneport.errors import DataError, TuneportError
from tuneport.stages.finetune.config import load_config

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
            ["no column 'text', only 'texts', 'label'", "--columns text=YOUR_COLUMN"],
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
            for number, row in numbered_rows(rows):
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
    file.write_text('task = "classify"\nmodel = "m"\nlearning_rate = -1\n')
    with pytest.raises(TuneportError) as error:
        load_config(file, ["num_epochs=3", "seed=first", "batch_size=3", "zzz=1"], {})
    parts = (
        "wrong settings: task: 'classify' is not a task: choose among", "learning_rate = -1", "data is missing",
        "num_epochs is not a setting (did you mean num_train_epochs?)", "seed = 'first'", "zzz is not a setting;",
        "batch_size is not a setting (did you mean per_device_train_batch_size or per_device_eval_batch_size?)",
    )  # fmt: skip
    assert [part for part in parts if part not in str(error.value)] == []


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


def _csv(file: Path, lines: list[str]) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("labels", [("01", "02", "10"), ("True", "False"), ("1.0", "2.50"), ("7", "unknown")])
def test_cells_of_a_csv_are_read_as_they_are_written(tmp_path: Path, labels: tuple[str, ...]) -> None:
    lines = ["text,label", *(f"{i},{labels[i % len(labels)]}" for i in range(30))]
    data = _read(_csv(tmp_path / "x.csv", lines))
    rows = [row for split in data.splits.values() for row in split]
    assert {row["label"] for row in rows} == set(labels)
    assert {row["text"] for row in rows} == {str(i) for i in range(30)}


def test_one_late_word_does_not_spoil_a_column_of_numbers(tmp_path: Path) -> None:
    """Arrow takes the type of a column from its first thousands of rows."""
    lines = ["text,label", *(f"t{i},{i % 3}" for i in range(10_500)), "late,unknown"]
    rows = _read(_csv(tmp_path / "x.csv", lines)).splits
    assert {label for split in rows.values() for label in split["label"]} == {"0", "1", "2", "unknown"}


def test_scores_of_a_csv_are_numbers_and_only_bad_rows_are_named(tmp_path: Path) -> None:
    lines = ["text,score", *(f"t{i},{i / 2}" for i in range(12))]

    def read() -> Data:
        return read_data(str(tmp_path), columns={}, required=("text", "score"), optional=(), seed=0)

    _csv(tmp_path / "train.csv", lines)
    _csv(tmp_path / "validation.csv", lines)
    assert list(read().splits["train"]["score"]) == [i / 2 for i in range(12)]
    _csv(tmp_path / "train.csv", [*lines, "a,", "b,nan", "c,3;5"])
    _csv(tmp_path / "validation.csv", [*lines, "d,inf"])
    with pytest.raises(DataError) as error:
        read()
    for part in ("train.csv row 13: score is an empty string", "row 14: score is 'nan'", "row 15: score is '3;5'"):
        assert part in str(error.value)
    assert "validation.csv row 13: score is 'inf'" in str(error.value)
    assert "more" not in error.value.problem


def test_absent_columns_of_all_files_are_named_at_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [{"texts": "a", "label": "b"}])
    write_rows(tmp_path / "validation.jsonl", [{"text": "a", "labels_": "b"}])
    with pytest.raises(
        DataError, match=r"train\.jsonl has no column 'text', .*validation\.jsonl has no column 'label'"
    ):
        _read(tmp_path)


@pytest.mark.parametrize("columns", [{"text": "text", "text_pair": "text"}, {"text_pair": "text"}])
def test_a_column_cannot_be_two_of_the_tasks(tmp_path: Path, columns: dict[str, str]) -> None:
    with pytest.raises(DataError, match="several of the task's columns"):
        _read(write_rows(tmp_path / "x.jsonl", ROWS), **columns)


def test_an_unpaired_surrogate_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "a", "label": 1}\n{"text": "b \\ud800", "label": 1}\n')
    with pytest.raises(DataError, match=r"line 2 has an unpaired surrogate, \\ud800"):
        _read(file)


def test_a_csv_with_surplus_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1 \(line 2\) has 3 cells and the header 2, separated by ','"):
        _read(_csv(tmp_path / "x.csv", ["text,label", "a, b,c", "a,b,d"]))


def test_the_seed_decides_the_splits(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.jsonl", [{"text": f"text {i}", "label": i % 2} for i in range(60)])

    def test_texts(seed: int) -> list[str]:
        data = read_data(str(file), columns={}, required=("text", "label"), optional=(), seed=seed)
        return sorted(data.splits["test"]["text"])

    assert test_texts(1) == test_texts(1) != test_texts(2)


@pytest.mark.parametrize("seed", range(5))
def test_every_class_of_a_file_has_a_row_in_train(tmp_path: Path, seed: int) -> None:
    labels = ["once", *["thrice"] * 3, *["common"] * 56]
    file = write_rows(tmp_path / "x.jsonl", [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)])
    data = read_data(str(file), columns={}, required=("text", "label"), optional=(), seed=seed)
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 48, "validation": 6, "test": 6}
    assert set(data.splits["train"]["label"]) == set(labels)
    several = [{"text": f"text {i}", "labels": [label, "all"]} for i, label in enumerate(labels)]
    write_rows(file, several)
    data = read_data(str(file), columns={}, required=("text", "labels"), optional=(), seed=seed)
    assert {each for row in data.splits["train"]["labels"] for each in row} == {*labels, "all"}


def test_classes_are_divided_evenly_and_rows_keep_their_numbers(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "abcd"[i % 4]} for i in range(200)]
    data = _read(write_rows(tmp_path / "x.jsonl", rows))
    for name, count in {"train": 40, "validation": 5, "test": 5}.items():
        assert all(abs(list(data.splits[name]["label"]).count(label) - count) <= 1 for label in "abcd")
    few = _read(write_rows(tmp_path / "y.jsonl", rows[:10]))
    assert {len(few.splits[name]) for name in ("validation", "test")} == {1}
    for split in few.splits.values():
        assert all(row["text"] == f"text {number - 1}" for number, row in numbered_rows(split))


def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's own log of its error would stand beside it."""
    monkeypatch.setattr(logging.getLogger("datasets"), "handlers", [caplog.handler])
    for name, lines in (
        ("x.csv", ["text,label", "a,b", "a,b,c,d"]),
        ("x.jsonl", ['{"text": "a"}', '{"text": "\\ud800"}']),
    ):
        data = _csv(tmp_path / name, lines)
        done = tuneport("finetune", "--task", "text-classification", "--model", base, "--data", data, "--out", "o")
        assert done.code == 1
        assert done.err.count("\n") == 1, done.err
        assert not caplog.records


def test_labels_of_json_keep_the_digits_of_every_whole_number(tmp_path: Path) -> None:
    labels = [2**64 - 1, 2**64, -(2**63), -(2**63) - 1]
    file = write_rows(tmp_path / "x.jsonl", [{"text": f"t{i}", "label": labels[i % 4]} for i in range(20)])
    read = {str(row["label"]) for split in _read(file).splits.values() for row in split}
    assert read == {str(label) for label in labels}
