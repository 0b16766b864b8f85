"""A benchmark refuses at its start the folder that it could not write at its end."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tuneport.errors import TuneportError
from tuneport.stages.benchmarks.config import BenchConfig, EndpointConfig
from tuneport.stages.benchmarks.endpoint.main import bench_endpoint
from tuneport.stages.benchmarks.engine import bench
from tuneport.stages.benchmarks.front_ends.config import FrontEndsConfig
from tuneport.stages.benchmarks.front_ends.run import bench_front_ends
from tuneport.stages.benchmarks.frontend.config import FrontendConfig
from tuneport.stages.benchmarks.frontend.run import bench_frontend
from tuneport.stages.benchmarks.report import REPORT

RUNS: dict[str, Callable[[Path], object]] = {
    "engine": lambda out: bench(BenchConfig(artifact=out), out, overwrite=True),
    "endpoint": lambda out: bench_endpoint(EndpointConfig(artifact=out), out, overwrite=True),
    "front-end": lambda out: bench_frontend(FrontendConfig(out=out)),
    "front-ends": lambda out: bench_front_ends(FrontEndsConfig(out=out)),
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
