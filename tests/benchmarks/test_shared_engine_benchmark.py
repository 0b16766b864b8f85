"""The benchmark of workers that share an engine: its report, and a short run of it."""

from pathlib import Path

import pytest

from tuneport.host import Host
from tuneport.stages.benchmarks.shared_engine.__main__ import main
from tuneport.stages.benchmarks.shared_engine.config import (
    CaseResult,
    EngineKind,
    SharedEngineConfig,
    SharedEngineReport,
)
from tuneport.stages.benchmarks.shared_engine.report import write_report


def case(engine: EngineKind, workers: int, requests_per_s: float) -> CaseResult:
    return CaseResult(
        engine=engine, workers=workers, requests_per_s=requests_per_s, latency_ms_p50=4.0, worker_ms=1.0,
        engine_ms=0.25, client_ms=0.75, rows_per_batch=6.5, worker_mib=90.0, engine_mib=110.0, errors=0,
    )  # fmt: skip


def test_the_report_compares_with_one_worker_of_the_same_engine(tmp_path: Path) -> None:
    host = Host.here().model_copy(update={"cores": 4})
    cases = (case("own", 1, 900), case("shared", 1, 800), case("shared", 2, 1200), case("paced", 1, 1000))
    report = SharedEngineReport(
        model="tiny 1", config=SharedEngineConfig(out=tmp_path), host=host, git_commit=None, created="now", cases=cases
    )
    write_report(tmp_path, report)
    text = (tmp_path / "report.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert [row[3] for row in rows[2:]] == ["1.00", "1.00", "1.50", "1.00"]
    assert rows[4] == [
        "shared", "2", "1200", "1.50", "4.00", "1.000", "0.250", "0.750", "6.5", "90", "110", "0",
    ]  # fmt: skip
    assert "more than 2000 requests/s" in text  # 4 cores, 2 ms a request


@pytest.mark.slow
def test_workers_of_each_engine_answer_the_tiny_model(tmp_path: Path) -> None:
    main(["--out", str(tmp_path / "report"), "--rounds", "1", "--seconds", "1"])
    report = SharedEngineReport.model_validate_json((tmp_path / "report" / "report.json").read_text())
    expected = [("own", 1), ("shared", 1), ("shared", 2), ("paced", 1), ("paced", 2)]
    assert [(each.engine, each.workers) for each in report.cases] == expected
    assert all(each.requests_per_s > 0 and each.errors == 0 for each in report.cases)
    assert all((each.engine_ms > 0) == (each.engine != "own") for each in report.cases)
