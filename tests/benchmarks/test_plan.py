"""`tuneport plan`: the machines that a traffic needs, from a report's figures."""

import os
from pathlib import Path

import pytest
from kit.command import assert_one_line, tuneport
from kit.kubernetes import find, read_yaml, render
from kit.reports import endpoint_report, engine_report, level, model_result, rate, server

from tuneport.errors import DataError, TuneportError
from tuneport.stages.benchmarks.config import PlanConfig
from tuneport.stages.benchmarks.endpoint.results import GRPC, HTTP, EndpointReport
from tuneport.stages.benchmarks.helm_values import MIN_REPLICAS, write_helm_values
from tuneport.stages.benchmarks.machine import MachineState
from tuneport.stages.benchmarks.plan import Plan, plan


def make(folder: Path, report: EndpointReport, rate_per_s: float = 500, p99_ms: float = 50, **settings: float) -> Plan:
    (folder / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
    return plan(PlanConfig.model_validate({"rate": rate_per_s, "p99_ms": p99_ms, "report": folder, **settings}))


def machines(found: Plan) -> dict[str, int]:
    return {each.name: each.machines for each in found.servers}


def test_the_machines_carry_the_rate_with_headroom(tmp_path: Path) -> None:
    fast = server("fast", level(1, 60, 20), level(8, 100, 40), level(32, 300, 90))
    slow = server("slow", level(1, 20, 30))
    found = make(tmp_path, endpoint_report(slow, fast), cost_per_hour=0.1)
    # 100/s hold 50 ms, 80 of them are used: 500 / 80 = 6.25; slow: 500 / 16 = 31.25.
    assert machines(found) == {"fast": 7, "slow": 32}
    assert found.servers[0].cost_per_hour == pytest.approx(0.7)
    header, rows = found.cells()
    assert dict(zip(header, rows[0], strict=True)) == {
        "": "fast", "requests/s a machine": "100", "p99 ms": "40.0", "measured in": "closed loop", "machines": "7",
        "busy": "71%", "cost an hour": "0.70", "a month": "511", "a million requests": "0.389",
    }  # fmt: skip
    assert machines(make(tmp_path, endpoint_report(fast), headroom=0.0)) == {"fast": 5}
    assert machines(make(tmp_path, endpoint_report(fast), p99_ms=100)) == {"fast": 3}


def test_random_arrivals_count_where_they_were_measured(tmp_path: Path) -> None:
    """Also for another objective than that of the search; a rate at which requests failed never does."""
    one = server("one", level(32, 300, 40))
    rates = (rate(80, 30), rate(120, 45), rate(160, 48, failed=2), rate(180, 80))
    report = endpoint_report(one, searches={"one": rates})
    assert machines(make(tmp_path, report)) == {"one": 6}  # 500 / (120 * 0.8)
    found = make(tmp_path, report, p99_ms=90)
    assert found.servers[0].capacity
    assert found.servers[0].capacity.requests_per_s == 180
    assert found.servers[0].capacity.is_open_loop
    with pytest.raises(TuneportError, match="within 20 ms"):
        make(tmp_path, report, p99_ms=20)


def test_a_withheld_percentile_an_error_and_the_upper_end_of_an_interval_prove_nothing(tmp_path: Path) -> None:
    few, failing = server("few", level(1, 900, None)), server("failing", level(1, 900, 10, errors=1))
    sound = server("sound", level(1, 100, 10, interval=(50, 150)))
    found = make(tmp_path, endpoint_report(few, failing, sound), rate_per_s=40)
    assert machines(found) == {"sound": 1, "few": 0, "failing": 0}
    header, rows = found.cells()
    assert [row[1] for row in rows] == ["50", "does not hold it", "does not hold it"]
    assert {len(row) for row in rows} == {len(header)}


def test_the_command_prints_the_plan_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(
        endpoint_report(server("tuneport HTTP", level(8, 100, 40))).model_dump_json(), encoding="utf-8"
    )
    shown = tuneport("plan", "--rate", "500", "--p99-ms", "50", "--report", tmp_path).out
    assert "tuneport HTTP" in shown
    assert "500 requests/s with p99 within 50 ms" in shown
    refused = tuneport("plan", "--rate", "500", "--p99-ms", "5", "--report", tmp_path)
    assert refused.code == 1
    assert_one_line(refused.err, "p99 within 5 ms", "the lowest p99 is 40.0 ms", "--p99-ms")
    missing = tuneport("plan", "--rate", "500")
    assert missing.code == 2
    assert "--p99-ms is required; --report is required" in missing.err


def test_a_report_of_the_variants_is_refused(tmp_path: Path) -> None:
    report = engine_report(model_result("fp32"))
    (tmp_path / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
    with pytest.raises(DataError, match="bench-endpoint"):
        plan(PlanConfig(rate=1, p99_ms=1, report=tmp_path))


@pytest.mark.parametrize("gpus", [False, True])
def test_the_plan_becomes_values_of_the_chart(gpus: bool, tmp_path: Path) -> None:
    servers = server(HTTP, level(8, 100, 40)), server(GRPC, level(8, 200, 40)), server("other", level(8, 10, 40))
    report = endpoint_report(*servers)
    if gpus:
        report = report.model_copy(update={"device": "cuda"})
    (tmp_path / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
    file = tmp_path / "values.yaml"
    asked = ("--rate", "500", "--p99-ms", "50", "--report", tmp_path, "--helm-values", file)
    assert tuneport("plan", *asked).code == 0
    values = read_yaml(file)
    # Over HTTP 500 / (100 * 0.8) = 6.25 machines; 200 MiB were measured.
    machine = {"cpu": "2", "memory": "512Mi"}
    assert values == {
        "replicas": 7,
        "autoscaling": {"minReplicas": 2, "maxReplicas": 7},
        "resources": {"requests": machine, "limits": machine},
        **({"gpu": {"enabled": True, "count": 1}} if gpus else {}),
    }
    deployment = find(render(**values), "Deployment")["spec"]
    [container] = deployment["template"]["spec"]["containers"]
    assert deployment["replicas"] == 7
    assert container["resources"]["requests"] == machine
    assert container["resources"]["limits"] == {**machine, **({"nvidia.com/gpu": 1} if gpus else {})}


@pytest.mark.parametrize(("processors", "is_warned"), [(2, True), (8, False), (None, False)])
def test_values_for_pods_as_large_as_a_node_carry_a_warning(
    processors: int | None, is_warned: bool, tmp_path: Path
) -> None:
    report = endpoint_report(server(HTTP, level(8, 100, 40)))
    assert report.host.cores == 2
    machine = MachineState.now().model_copy(update={"processors": processors})
    found = make(tmp_path, report.model_copy(update={"machine": machine}))
    write_helm_values(found, tmp_path / "values.yaml")
    assert ("# WARNING: measured on all 2 processors" in (tmp_path / "values.yaml").read_text()) == is_warned
    assert read_yaml(tmp_path / "values.yaml")["resources"]["limits"]["cpu"] == "2"
    assert MachineState.now().processors == os.cpu_count()


def test_values_without_a_server_of_ours_or_a_file_that_can_be_written_are_one_line(tmp_path: Path) -> None:
    for name, file, words in (("other", tmp_path / "values.yaml", "tuneport HTTP"), (HTTP, tmp_path, "cannot be")):
        report = endpoint_report(server(name, level(8, 100, 40)))
        (tmp_path / "report.json").write_text(report.model_dump_json(), encoding="utf-8")
        refused = tuneport("plan", "--rate", "5", "--p99-ms", "50", "--report", tmp_path, "--helm-values", file)
        assert refused.code == 1
        assert_one_line(refused.err, words)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    one = make(tmp_path, endpoint_report(server(HTTP, level(8, 100, 40))), rate_per_s=5)
    write_helm_values(one, tmp_path / "values.yaml")
    assert read_yaml(tmp_path / "values.yaml")["replicas"] == MIN_REPLICAS
