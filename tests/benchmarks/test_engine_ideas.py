"""The benchmark of ideas for the engine, with two of them on a tiny model."""

import functools
from pathlib import Path

import pytest

from tuneport.errors import TuneportError
from tuneport.stages.benchmarks.engine_ideas import __main__ as engine_ideas
from tuneport.stages.benchmarks.engine_ideas.__main__ import measure
from tuneport.stages.benchmarks.engine_ideas.ideas import ideas
from tuneport.stages.export.benchmark import benchmark
from tuneport.stages.export.config import ExportConfig


def test_ideas_are_built_and_timed_beside_torch(
    tiny_checkpoint: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_ideas, "benchmark", functools.partial(benchmark, rounds=1))
    monkeypatch.setattr(engine_ideas, "TIMED_ROWS", 8)
    config = ExportConfig(checkpoint=tiny_checkpoint, data=str(tiny_data), max_drop=1.0, distill_minutes=0)
    title, _, header, _, *lines = measure(config, ["streams"], lambda _: None).splitlines()
    assert title.startswith("8 rows of ")
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns[:4] == ["", "texts/s", "of int8", columns[3]]
    assert columns[3].startswith("of torch ")
    rows = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)}
    names = ideas(2)
    int8, streams = rows[names["int8"].what], rows[names["streams"].what]
    assert int8[1] == "1.00 to 1.00"
    assert all(float(cells[0]) > 0 for cells in (int8, streams, rows["torch fp32"]))
    assert int8[5:] == streams[5:]  # the same graph: its size, its error and its metric
    assert not any(rows["torch fp32"][4:])


def test_an_unknown_idea_is_refused_before_any_work(tiny_checkpoint: Path, tiny_data: Path) -> None:
    lines: list[str] = []
    with pytest.raises(TuneportError, match=r"there is no idea 'stream'; choose among fp32, int8, streams, .*-half"):
        measure(ExportConfig(checkpoint=tiny_checkpoint, data=str(tiny_data)), ["int8", "stream"], lines.append)
    assert lines == []
