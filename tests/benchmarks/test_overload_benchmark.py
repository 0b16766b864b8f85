"""The overload benchmark: rounds are added up, and what the load generator takes is taken into account."""

from pathlib import Path

import pytest

from tuneport.errors import GateError
from tuneport.host import Host
from tuneport.stages.benchmarks.endpoint.targets import http_target
from tuneport.stages.benchmarks.load.main import SLICES
from tuneport.stages.benchmarks.load.plan import OK, REFUSED, LoadPlan, LoadResult
from tuneport.stages.benchmarks.overload.main import LoadSpec, bench_overload, summarize
from tuneport.stages.benchmarks.overload.results import OverloadReport


def load_result(answered: int, latency_ms: float, refused: int, client_cpu_s: float) -> LoadResult:
    return LoadResult(
        seconds=2,
        answered=answered,
        answered_by_slice=(0,) * SLICES,
        latencies_ms=(latency_ms,) * answered,
        statuses={OK: answered, **({REFUSED: refused} if refused else {})},
        sent=answered + refused,
        client_cpu_s=client_cpu_s,
    )


def spec(artifact: Path) -> LoadSpec:
    plan = LoadPlan(port=1, path="/predict", bodies=(b"{}",), connections=4, seconds=2, warm_up_s=0.5)
    return LoadSpec("full load", http_target(artifact, None), plan, 30.0)


def test_the_rounds_of_a_load_are_added_up(tiny_artifact: Path) -> None:
    load = summarize(spec(tiny_artifact), [load_result(100, 5.0, 0, 0.2), load_result(300, 7.0, 50, 0.6)])
    assert load.goodput_per_s == 100  # 400 in 4 s
    assert load.latency_ms_p50 == 7.0
    assert load.refused_per_s == 10  # 50 in 4 s and the warm-up of 1 s
    assert load.statuses == {OK: 400, REFUSED: 50}
    assert load.client_cores == 0.2
    assert (load.connections, load.max_queue_ms) == (4, 30.0)
    with pytest.raises(GateError, match="too few requests were answered: full load"):
        summarize(spec(tiny_artifact), [load_result(3, 5.0, 0, 0.1)])
    with pytest.raises(GateError, match="too few"):
        summarize(spec(tiny_artifact), [load_result(400, 5.0, 0, 0.1), load_result(0, 5.0, 50, 0.1)])


def test_goodput_is_related_to_full_load_in_the_same_round(tiny_artifact: Path) -> None:
    full = summarize(spec(tiny_artifact), [load_result(count, 5.0, 0, 0.4) for count in (400, 200, 300)])  # 0.2 cores
    overload = summarize(spec(tiny_artifact), [load_result(count, 5.0, 9, 1.12) for count in (200, 160, 300)])  # 0.56
    report = OverloadReport(
        name="m",
        version="1",
        variant="fp32",
        loads=(full, overload),
        refusal_cpu_us=60.0,
        host=Host.here().model_copy(update={"cores": 2}),
        git_commit=None,
        created="now",
    )
    assert full.goodput_by_round == (200.0, 100.0, 150.0)
    # 0.5, 0.8 and 1.0 of the pairs; the quotients of sums and of medians are others.
    assert report.goodput_ratio(overload) == (0.8, pytest.approx((0.5, 1.0)))
    assert [report.share_of_cores_left(load) for load in report.loads] == [1.0, pytest.approx(1.0)]
    assert "| 0.80 (0.50 to 1.00) | 1.00 | 5 | 5 |" in report.markdown()
    assert "A refusal took 60 µs" in report.markdown()


@pytest.mark.slow
def test_all_loads_run_and_two_servers_share_the_rounds(tiny_artifact: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    report = bench_overload(
        tiny_artifact, tmp_path / "out", connections=4, rounds=2, seconds=0.8, progress=lines.append
    )
    assert len(report.loads) == 6
    assert [load.max_queue_ms is None for load in report.loads] == [True] * 3 + [False] * 3
    assert all(load.goodput_per_s > 0 and 0 < load.client_cores < report.host.cores for load in report.loads)
    assert all(len(load.goodput_by_round) == 2 for load in report.loads)
    assert report.refusal_cpu_us > 0
    assert [line.split(":")[0] for line in lines if line.startswith("round")] == [
        f"round {number} of 2" for number in (1, 2) for _ in range(6)
    ]
