"""Batch scoring: every row once, in order, with its columns; bad rows aside; the formats; what is refused."""

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from kit import ROOT
from kit.command import assert_one_line, tuneport
from kit.data import read_rows, write_rows
from kit.scoring import read_table, write_table
from kit.texts import random_texts

from tuneport.errors import DataError, EngineError, TuneportError
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.runner import run_isolated
from tuneport.scoring import opening, scorer
from tuneport.scoring import rows as scoring_rows
from tuneport.scoring.config import ScoreConfig
from tuneport.scoring.pipeline import Progress, rejects_of, score
from tuneport.scoring.preparation import ChunkEncoder, PreparedChunk
from tuneport.scoring.rows import Chunk
from tuneport.scoring.sources import open_source

TEXTS = list(itertools.islice(random_texts(3), 230))
ROWS = [{"id": f"row-{i:03d}", "text": text, "note": 'a, "b"\nc'} for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def predictions(tiny_artifact: Path) -> list[Any]:
    return Predictor(tiny_artifact, "fp32").predict(TEXTS)


def config_of(artifact: Path, path: Path, **settings: Any) -> ScoreConfig:
    return ScoreConfig.model_validate(
        {"artifact": artifact, "input": path, "variant": "fp32", "window_rows": 64, **settings}
    )


def assert_close(found: Any, expected: Any) -> None:
    """Compare predictions, which padding changes in the last digits."""
    assert found["label"] == expected["label"]
    assert found["score"] == pytest.approx(expected["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("source", "target"),
    [("jsonl", "jsonl"), ("csv", "csv"), ("csv", "parquet"), ("tsv", "jsonl"), ("parquet", "parquet"),
     ("parquet", "jsonl")],
)  # fmt: skip
def test_every_row_is_scored_in_order_with_its_columns(
    tiny_artifact: Path, predictions: list[Any], tmp_path: Path, source: str, target: str
) -> None:
    path, out = write_table(tmp_path / f"in.{source}", ROWS), tmp_path / f"out.{target}"
    seen: list[Progress] = []
    result = score(config_of(tiny_artifact, path), out, progress=seen.append)
    assert (result.scored, result.rejected, result.continued) == (230, 0, 0)
    found = read_table(out)
    assert [{name: row[name] for name in ROWS[0]} for row in found] == ROWS
    for row, expected in zip(found, predictions, strict=True):
        assert_close(row["prediction"], expected)
        if target != "jsonl":
            assert row["prediction_label"] == expected["label"]
            assert float(row["prediction_score"]) == row["prediction"]["score"]
    assert (seen[-1].done_rows, seen[-1].total_rows) == (230, 230)
    assert len(seen) > 3
    assert sorted(tmp_path.iterdir()) == sorted([path, out])


def test_a_row_of_json_lines_is_copied_as_it_was(tiny_artifact: Path, tmp_path: Path) -> None:
    line = '{"n":1.50,  "big": 123456789012345678901234567890, "t": "\\u00e4", "text": "bank"  }'
    (tmp_path / "in.jsonl").write_text(f"\ufeff{line}\r\n\r\n{line}", encoding="utf-8")
    score(config_of(tiny_artifact, tmp_path / "in.jsonl"), tmp_path / "out.jsonl")
    copied = line.removesuffix("  }")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert all(each.startswith(f'{copied}, "prediction": {{"label": ') for each in lines)


def test_types_of_parquet_are_kept(tiny_artifact: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {"text": ["bank", None, "won"], "day": [1, 2, 3], "tags": [["a"], [], None], "raw": [b"\x00", b"", b"x"]}
    schema = pyarrow.schema(
        [("text", pyarrow.string()), ("day", pyarrow.date32()), ("tags", pyarrow.list_(pyarrow.string())),
         ("raw", pyarrow.binary())]
    )  # fmt: skip
    parquet.write_table(pyarrow.table(columns, schema), tmp_path / "in.parquet")
    score(config_of(tiny_artifact, tmp_path / "in.parquet"), tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.schema.names == ["text", "day", "tags", "raw", "prediction_label", "prediction_score", "prediction"]
    assert all(table.schema.field(name).equals(schema.field(name)) for name in schema.names)
    assert table["raw"].to_pylist() == [b"\x00", b"x"]
    [rejected] = read_rows(rejects_of(tmp_path / "out.parquet"))
    assert (rejected["row"], rejected["input"]["day"]) == (2, "1970-01-03")


def test_bad_rows_go_to_the_side_file_with_number_and_reason(tiny_artifact: Path, tmp_path: Path) -> None:
    lines = [b'{"id": 1, "text": "bank"}', b"{", b'{"id": 2, "text": 7}', b'{"id": 3}', b"[]", b'{"text": "\xff"}',
             b'{"id": 4, "text": "\\ud800"}', b'{"text": "x", "prediction": 1}', b'{"id": 5, "text": ""}']  # fmt: skip
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    result = score(config_of(tiny_artifact, tmp_path / "in.jsonl"), tmp_path / "out.jsonl")
    assert (result.scored, result.rejected) == (2, 7)
    assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == [1, 5]
    rejected = read_rows(result.rejects)
    assert [row["row"] for row in rejected] == [2, 3, 4, 5, 6, 7, 8]
    words = ("not JSON", "a number", "no 'text'", "not an object", "UTF-8", "surrogate", "--prediction-column")
    assert all(word in row["reason"] for word, row in zip(words, rejected, strict=True))
    assert rejected[0]["input"] == "{"
    assert rejected[1]["input"] == {"id": 2, "text": 7}


def test_bad_rows_of_a_table_do_not_stop_it(tiny_artifact: Path, tmp_path: Path) -> None:
    content = b'sep=;\nid;text\n1;bank\n2;a;b\n3;"x"y\n4;\xff\n\n5\n6;"two\nlines"\n7;"open\n'
    (tmp_path / "in.csv").write_bytes(content)
    result = score(config_of(tiny_artifact, tmp_path / "in.csv"), tmp_path / "out.csv")
    header, *rows = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "id;text;prediction_label;prediction_score;prediction"
    assert [row.partition(";")[0] for row in rows if row[0].isdigit()] == ["1", "5", "6"]
    rejected = read_rows(result.rejects)
    assert [row["row"] for row in rejected] == [2, 3, 4, 7]
    assert [row["input"] for row in rejected] == ["2;a;b", '3;"x"y', "4;\\xff", '7;"open']
    assert ["3 cells" in rejected[0]["reason"], "UTF-8" in rejected[2]["reason"]] == [True, True]


def test_columns_are_renamed_and_chosen(tiny_artifact: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"id": 1, "review": "bank", "rest": 0}])
    settings = {"columns": {"text": "review"}, "keep": ("id",), "prediction_column": "p", "parameters": '{"top_k": 2}'}
    score(config_of(tiny_artifact, path, **settings), tmp_path / "out.jsonl")
    [row] = read_rows(tmp_path / "out.jsonl")
    assert list(row) == ["id", "p"]
    assert len(row["p"]) == 2


def test_the_first_rows_are_read_while_the_engine_opens(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write_rows(tmp_path / "in.jsonl", [{"text": "bank"}]), tmp_path / "out.jsonl"
    prepare, build_runner, are_read = ChunkEncoder.prepare, opening.build_runner, threading.Event()

    def prepare_and_tell(self: ChunkEncoder, chunk: Chunk) -> PreparedChunk:
        prepared = prepare(self, chunk)
        are_read.set()
        return prepared

    def wait_for_rows(*arguments: Any, **options: Any) -> Any:
        assert are_read.wait(30), "the rows wait for the engine"
        if fails:
            raise EngineError("no engine", "install one")
        return build_runner(*arguments, **options)

    monkeypatch.setattr(ChunkEncoder, "prepare", prepare_and_tell)
    monkeypatch.setattr(opening, "build_runner", wait_for_rows)
    for fails in (True, False):
        are_read.clear()
        with pytest.raises(EngineError, match="no engine") if fails else nullcontext():
            assert score(config_of(tiny_artifact, path), out).scored == 1
        assert sorted(tmp_path.iterdir()) == ([path] if fails else [path, out])


def test_columns_without_a_name_stay_in_their_place(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(",text,\n0,bank,x\n1,won,y\n")
    score(config_of(tiny_artifact, tmp_path / "in.csv"), tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines] == [["", "text", ""], ["0", "bank", "x"], ["1", "won", "y"]]


@pytest.mark.parametrize(
    ("name", "content", "settings", "words"),
    [
        ("in.jsonl", '{"txt": "x"}\n', {}, ("'text'", "'txt'", "--columns text=")),
        ("in.csv", "id,txt\n1,x\n", {}, ("'text'", "'id', 'txt'")),
        ("in.csv", "text,prediction\nx,1\n", {}, ("'prediction'", "--prediction-column")),
        ("in.csv", "text,text\nx,1\n", {}, ("'text'", "rename")),
        ("in.csv", "text\nx\n", {"keep": ("id",)}, ("'id'", "--keep")),
        ("in.jsonl", '{"text": "x"}\n', {"columns": {"txt": "x"}}, ("txt", "text")),
        ("in.jsonl", '{"text": 1}\n', {}, ("none of the first 1 rows",)),
        ("in.jsonl", "", {}, ("no rows",)),
        ("in.csv", "", {}, ("header",)),
        ("in.csv", "text\n", {}, ("no rows",)),
        ("in.jsonl.gz", "x", {}, ("gunzip",)),
        ("in.json", "[]", {}, (".jsonl",)),
        ("in.parquet", "x", {}, ("cannot be read",)),
        ("in.jsonl", '{"text": "x"}\n', {"parameters": '{"top": 1}'}, ("top",)),
    ],
)
def test_what_cannot_be_scored_is_one_error_and_leaves_no_output(
    tiny_artifact: Path, tmp_path: Path, name: str, content: str, settings: dict[str, Any], words: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(content)
    out = tmp_path / ("out.csv" if ".csv" in name else "out.jsonl")
    with pytest.raises(TuneportError) as caught:
        score(config_of(tiny_artifact, tmp_path / name, **settings), out)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_an_output_in_a_format_that_cannot_hold_the_rows_is_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"text": "bank"}])
    with pytest.raises(TuneportError, match=r"a file named \.jsonl$"):
        score(config_of(tiny_artifact, path), tmp_path / "out.parquet")


@pytest.mark.parametrize("written", ["out", "side file", "link"])
def test_an_output_that_would_replace_the_input_is_refused(tiny_artifact: Path, tmp_path: Path, written: str) -> None:
    out = tmp_path / "rows.jsonl"
    source = write_table(rejects_of(out) if written == "side file" else out, [{"text": "bank"}])
    if written == "link":
        out = tmp_path / "link.jsonl"
        out.symlink_to(source)
    answer = tuneport("score", tiny_artifact, source, "--out", out, "--overwrite")
    assert answer.code == 1
    assert_one_line(answer.err, "which is written, is the input", "choose another --out")
    assert read_rows(source) == [{"text": "bank"}]


def test_a_row_that_is_too_long_is_bounded(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("json_lines", "tables"):
        monkeypatch.setattr(f"tuneport.scoring.{module}.MAX_ROW_BYTES", 1000)
    rows = [{"id": 1, "text": "bank"}, {"id": 2, "text": "x" * 5000}, {"id": 3, "text": "won"}]
    result = score(config_of(tiny_artifact, write_rows(tmp_path / "in.jsonl", rows)), tmp_path / "out.jsonl")
    assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == [1, 3]
    assert "longer than 1000 bytes" in read_rows(result.rejects)[0]["reason"]
    (tmp_path / "in.csv").write_text('text\nbank\n"never closed\n' + "x\n" * 600)
    with pytest.raises(DataError, match="close its quotes"):
        score(config_of(tiny_artifact, tmp_path / "in.csv"), tmp_path / "out.csv")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_chunks_are_bounded_in_rows_and_bytes_and_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    source = open_source(write_table(tmp_path / f"in.{suffix}", ROWS))
    chunks = list(source.index(40))
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert sum(chunk.rows for chunk in chunks) == 230
    assert max(chunk.rows for chunk in chunks) == 40
    assert [row.number for chunk in chunks for row in source.read(chunk).rows] == list(range(1, 231))
    again = [row.fields["id"] for chunk in chunks[::-1] for row in source.read(chunk).rows]
    assert sorted(again) == [row["id"] for row in ROWS]
    for module in (scoring_rows, sys.modules[type(source).__module__]):
        monkeypatch.setattr(module, "MAX_CHUNK_BYTES", 300, raising=False)
    assert max(chunk.rows for chunk in source.index(40)) < 10


def test_the_command_says_what_it_wrote_and_warns_of_bad_rows(tiny_artifact: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"text": "bank"}, {"text": None}])
    out = tmp_path / "out.jsonl"
    answer = tuneport("score", tiny_artifact, path, "--out", out)
    assert (answer.code, answer.out) == (0, f"scored 1 rows; wrote {out}\n")
    assert answer.err.startswith(f"warning: 1 rows could not be scored: {rejects_of(out)}")
    again = tuneport("score", tiny_artifact, path, "--out", out)
    assert again.code == 1
    assert_one_line(again.err, "exists", "--overwrite")
    write_rows(path, [{"text": "bank"}])
    assert tuneport("score", tiny_artifact, path, "--out", out, "--overwrite").code == 0
    assert not rejects_of(out).exists()


def test_an_input_that_is_not_an_object_of_parameters_is_a_usage_error(tiny_artifact: Path, tmp_path: Path) -> None:
    answer = tuneport("score", tiny_artifact, tmp_path, "--out", tmp_path / "x.jsonl", "--parameters", "[1]")
    assert answer.code == 2
    assert "give a JSON object" in answer.err


def test_scoring_with_an_encoder_needs_neither_torch_nor_datasets(tiny_artifact: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "in.jsonl", [{"text": "bank"}])
    code = (
        "import sys; from pathlib import Path; from tuneport.scoring.config import ScoreConfig\n"
        "from tuneport.scoring.pipeline import score\n"
        "score(ScoreConfig(artifact=Path(sys.argv[1]), input=Path(sys.argv[2])), Path(sys.argv[3]))\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow', 'ray'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, tiny_artifact, path, tmp_path / "out.jsonl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []


def test_ray_that_is_not_installed_is_one_line(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    path = write_rows(tmp_path / "in.jsonl", [{"text": "bank"}])
    answer = tuneport("score", tiny_artifact, path, "--out", tmp_path / "out.jsonl", "--ray", "auto")
    assert answer.code == 1
    assert_one_line(answer.err, "--ray needs ray", "tuneport[ray]")


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A test run in the background was started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interruption_waits_for_the_batches_that_run_only(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(tmp_path / "in.jsonl", ROWS)
    config = config_of(tiny_artifact, path, window_rows=len(ROWS), max_batch_tokens=64)
    batches: list[int] = []
    interrupt_at = 0

    def run(*arguments: Any) -> Any:
        batches.append(1)
        if len(batches) == interrupt_at:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if len(batches) >= interrupt_at > 0:
            time.sleep(0.3)  # longer than the main thread needs to stop the streams
        return run_isolated(*arguments)

    monkeypatch.setattr(scorer, "run_isolated", run)
    score(config, tmp_path / "whole.jsonl")
    whole, interrupt_at = len(batches), len(batches) + 2
    with pytest.raises(KeyboardInterrupt):
        score(config, tmp_path / "interrupted.jsonl")
    assert whole > 8
    assert len(batches) - whole < 6
    interrupt_at = 0
    score(config, tmp_path / "interrupted.jsonl")
    assert len((tmp_path / "interrupted.jsonl").read_text().splitlines()) == len(ROWS)
