"""The scaling benchmark: every size, length, batch, number of streams and of workers has a figure."""

from pathlib import Path

import pytest

from tuneport.errors import TuneportError
from tuneport.host import usable_cores
from tuneport.runtime.batch import EncodedInput
from tuneport.schema.torch_setup import TorchSetup
from tuneport.stages.benchmarks import scaling
from tuneport.stages.benchmarks.scaling import HTML, JSON, SIZES, TABLE, notes_of, run
from tuneport.stages.benchmarks.scaling_cores import divisions
from tuneport.stages.benchmarks.scaling_report import SizeResult, scaling_tables
from tuneport.stages.benchmarks.shapes import time_shapes
from tuneport.stages.export.target import BenchmarkTarget


def test_a_size_that_does_not_exist_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(TuneportError, match="no model of 7 million parameters; choose of 5, 11, 22, 66, 110"):
        run("minilm-l6", tmp_path, tmp_path / "out", [5, 7])
    assert not (tmp_path / "out").exists()


def test_the_sizes_are_those_of_their_layers() -> None:
    for millions, (layers, hidden) in SIZES.items():
        count = 30_000 * hidden + 512 * hidden + layers * 12 * hidden**2
        assert count / 1e6 == pytest.approx(millions, rel=0.1)


@pytest.mark.slow
def test_a_report_has_every_length_batch_and_number_of_streams_and_workers(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "SIZES", {1: (1, 64), 2: (2, 64)})
    monkeypatch.setattr(scaling, "VARIANTS", ("fp32", "int8"))
    monkeypatch.setattr(scaling, "ROWS", {"train": 32, "validation": 16, "test": 16})
    shapes = ("1x8", "1x128", "1x512", "4x32")
    report = run(str(tiny_checkpoint), tiny_data, tmp_path / "out", [1, 2], shapes=shapes)
    lengths, batches, *cores = (dict((row[0], row[1:]) for row in rows) for _, (_, rows) in scaling_tables(report))
    assert {"1 M fp32", "1 M int8", "2 M fp32", "2 M int8", "1 M torch fp32"} <= lengths.keys()
    assert all(len(row) == 3 and all(row) for row in lengths.values())
    assert all(len(row) == 1 and all(row) for row in batches.values())
    for table in cores:
        assert {"1 M fp32", "2 M fp32"} <= table.keys()
        assert all(
            len(row) == len(divisions(usable_cores())) and all(float(cell) > 0 for cell in row)
            for row in table.values()
        )
    assert report.notes == ()
    assert {file.name for file in (tmp_path / "out").iterdir()} == {JSON, TABLE, HTML}


def test_shapes_for_which_no_time_is_left_are_named() -> None:
    ran: list[int] = []
    target = BenchmarkTarget(lambda rows: ran.append(len(rows)), TorchSetup())
    row = EncodedInput([1], [0], False)
    timings, _ = time_shapes({"torch": target}, [row], [(1, 8), (2, 8)], max_length=8, ends_at=0.0)
    assert timings == {"torch": ()}
    assert not ran
    size = SizeResult(
        millions=5, layers=1, hidden_size=1, shapes=timings, streams=(), workers=(), left_out=("int8: no such kernel",)
    )
    assert notes_of(size, ["1x8", "2x8"]) == [
        "5 M parameters, without int8: no such kernel.",
        "5 M parameters: no time was left for the shapes 1 × 8, 2 × 8.",
    ]


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (64, [1, 2, 4, 8, 16, 32, 64])]
)
def test_cores_are_divided_in_few_ways(cores: int, counts: list[int]) -> None:
    assert divisions(cores) == counts
