"""A benchmark refuses at its start the folders that it could not write, or would not find, at its end."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.command import assert_one_line, tuneport

from tuneport.errors import TuneportError
from tuneport.stages.benchmarks.config import BenchConfig, EndpointConfig
from tuneport.stages.benchmarks.endpoint.main import bench_endpoint
from tuneport.stages.benchmarks.engine import bench
from tuneport.stages.benchmarks.report import REPORT
from tuneport.stages.benchmarks.request_cost.config import RequestCostConfig
from tuneport.stages.benchmarks.request_cost.run import bench_request_cost
from tuneport.stages.benchmarks.shared_engine.config import SharedEngineConfig
from tuneport.stages.benchmarks.shared_engine.run import bench_shared_engine

RUNS: dict[str, Callable[[Path], object]] = {
    "engine": lambda out: bench(BenchConfig(artifact=out), out, overwrite=True),
    "endpoint": lambda out: bench_endpoint(EndpointConfig(artifact=out), out, overwrite=True),
    "request cost": lambda out: bench_request_cost(RequestCostConfig(out=out)),
    "shared engine": lambda out: bench_shared_engine(SharedEngineConfig(out=out)),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_report_that_cannot_be_replaced_is_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / REPORT).write_text("old")
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(TuneportError, match=r"out cannot be replaced \(Permission denied\)"):
        RUNS[name](tmp_path / "out")
    assert (tmp_path / "out" / REPORT).read_text() == "old"


@pytest.mark.parametrize("place", ["absent", "file"])
@pytest.mark.parametrize("command", ["bench", "bench-endpoint"])
def test_peers_that_are_not_there_are_refused_at_once(command: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = tuneport(command, tmp_path / "artifact", "--out", tmp_path / "out", "--peers", tmp_path / place)
    assert answer.code == 1
    assert_one_line(
        answer.err, f"{tmp_path / place}, the folder of the peers' environments", "--peers", "peers.install"
    )
