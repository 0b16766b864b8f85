"""The benchmark of batch scoring: its input grows, and the fixed seconds of a run are told from its speed."""

from dataclasses import replace
from pathlib import Path

import pytest
from kit.scoring import read_table, write_table

from tuneport.errors import DataError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.scheduler import BatchLimits
from tuneport.scoring.pipeline import WINDOW_ROWS
from tuneport.scoring.sources import open_source
from tuneport.stages.benchmarks import scoring
from tuneport.stages.benchmarks.scoring import Timing, compare, describe, repeat_rows, split_timing, window_batches

ROWS = [{"id": i, "text": f'bank, "won"\n{i}'} for i in range(5)]


def test_the_fixed_seconds_are_told_from_the_speed() -> None:
    parts = [(3.0, 100), (4.0, 200), (5.0, 300)]  # 100 rows a second, after two seconds; half a second to join
    assert split_timing(300, 5.5, parts) == Timing(300 / 5.5, 100.0, 2.5)
    with pytest.raises(DataError, match="300 rows are one window"):
        split_timing(300, 5.5, parts[:1])


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_the_rows_of_a_file_are_repeated_below_its_header(tmp_path: Path, suffix: str) -> None:
    path, out = write_table(tmp_path / f"in.{suffix}", ROWS), tmp_path / f"out.{suffix}"
    if suffix == "jsonl":
        path.write_bytes(path.read_bytes().rstrip())  # a last line without its end
    repeat_rows(path, 3, out)
    source = open_source(out)
    texts = [row.fields["text"] for chunk in source.index(100) for row in source.read(chunk).rows]
    assert texts == [row["text"] for row in ROWS] * 3


def test_the_engine_runs_the_batches_of_scoring_whose_windows_are_packed_apart() -> None:
    """Packed together, both short rows would be one batch."""
    short, long = (EncodedInput([1] * n, [0] * n, False) for n in (4, 30))
    batches = window_batches([[short], [long, long], [short], [long]], 2, BatchLimits(30))
    assert [[len(row) for row in batch] for batch in batches] == [[30], [30], [4], [30], [4]]


def test_scoring_is_timed_beside_its_engine(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WINDOW_ROWS, "encoder", 4)
    monkeypatch.setattr(scoring, "engine_seconds", lambda predictor, inputs: 0.1 * len(inputs) / len(ROWS))
    path = write_table(tmp_path / "in.jsonl", ROWS)
    timings = compare(tiny_artifact, path, variant="fp32", rounds=1, workers=[1], min_seconds=0.35)
    assert replace(timings["engine"], cpu_ms=None) == Timing(50.0, 50.0, 0.0)  # 20 rows in 0.4 s
    scored = timings["1 worker(s)"]
    assert 20 / scored.texts_per_s == pytest.approx(scored.fixed_s + 20 / scored.steady_texts_per_s)
    assert scored.cpu_ms
    assert 0 < 20 * scored.cpu_ms < 60_000
    assert [line.split()[0] for line in describe(timings).splitlines()] == ["texts/s", "engine", "1"]
    assert len(read_table(path)) == len(ROWS)
