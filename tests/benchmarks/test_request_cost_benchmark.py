"""The benchmark of the cost of a request: its report, its checks, and a short run of it."""

import json
from pathlib import Path

import orjson
import pytest

from tuneport.errors import TuneportError
from tuneport.host import Host
from tuneport.schema.loading import load_manifest
from tuneport.stages.benchmarks.request_cost.__main__ import main
from tuneport.stages.benchmarks.request_cost.config import (
    EngineResult,
    RequestCostConfig,
    RequestCostReport,
    ServerResult,
)
from tuneport.stages.benchmarks.request_cost.layers import LayerCost
from tuneport.stages.benchmarks.request_cost.report import write_report
from tuneport.stages.benchmarks.request_cost.run import check_responses, chosen_targets
from tuneport.stages.benchmarks.request_cost.targets import BARE, TUNEPORT


def server(name: str, requests_per_s: float, texts_per_s: float | None) -> ServerResult:
    return ServerResult(
        name=name, requests_per_s=requests_per_s, cpu_ms_per_request=0.5, latency_ms_p50=0.9, texts_per_s=texts_per_s,
        ready_s=1.25, worker_mib=150.0, total_mib=250.0, errors=0,
    )  # fmt: skip


def test_the_report_compares_with_the_bare_server_and_the_engine(tmp_path: Path) -> None:
    engine = EngineResult(latency_ms_p50=0.1, texts_per_s=1000.0, texts_per_s_from_text=900.0, memory_mib=40.0)
    report = RequestCostReport(
        model="tiny 1", config=RequestCostConfig(out=tmp_path), host=Host.here(), git_commit=None, created="now",
        engine=engine, servers=(server(BARE, 2000, 500.0), server(TUNEPORT, 1800, 800.0), server("gRPC", 1900, None)),
        layers=(LayerCost(name="tokenizer", cpu_us=33.4),),
    )  # fmt: skip
    write_report(tmp_path, report)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (tmp_path / "report.md").open() if "|" in line]
    assert rows[3][:8] == [TUNEPORT, "1800", "0.90", "0.500", "0.90", "0.80", "800", "0.80"]
    assert rows[3][8:] == ["1.25", "150", "110", "0"]
    assert rows[4][6:8] == ["", ""]
    assert rows[-1] == ["tokenizer", "33"]
    assert json.loads((tmp_path / "report.json").read_text())["servers"][1]["name"] == TUNEPORT


def test_a_server_that_answers_wrongly_is_no_result(tiny_artifact: Path, tmp_path: Path) -> None:
    config = RequestCostConfig(out=tmp_path, servers=("serve, HTTP",))
    targets = chosen_targets(config, tiny_artifact, load_manifest(tiny_artifact))
    assert [target.name for target in targets][:2] == [BARE, TUNEPORT]
    bodies = {i: orjson.dumps({"predictions": [{"label": "calm"}]}) for i in range(10)}
    check_responses(targets[0], bodies, ["calm"] * 10)
    with pytest.raises(TuneportError, match="1 of 10"):
        check_responses(targets[0], bodies, ["calm"] * 9 + ["loud"])
    with pytest.raises(TuneportError, match="no server 'nginx'"):
        chosen_targets(config.model_copy(update={"servers": ("nginx",)}), tiny_artifact, load_manifest(tiny_artifact))


@pytest.mark.slow
def test_all_servers_answer_the_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out", str(tmp_path / "report"), "--rounds", "1", "--seconds", "1"])
    report = RequestCostReport.model_validate_json((tmp_path / "report" / "report.json").read_text())
    assert len(report.servers) == 6
    assert report.layers
    assert all(each.requests_per_s > 0 and each.errors == 0 for each in report.servers)
    assert "bare Starlette" in capsys.readouterr().out
