"""The endpoint benchmark: what it measures of a server, and its report."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuneport.errors import TuneportError
from tuneport.gpu import GpuMeter, GpuUsage
from tuneport.runtime.loading import open_task
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Manifest
from tuneport.stages.benchmarks.config import EndpointConfig
from tuneport.stages.benchmarks.endpoint.main import bench_endpoint
from tuneport.stages.benchmarks.endpoint.metrics import TokenCounts, padding_share, tokens_between
from tuneport.stages.benchmarks.endpoint.processes import ResourceUsage, resource_usage
from tuneport.stages.benchmarks.endpoint.results import HTTP, RateResult
from tuneport.stages.benchmarks.endpoint.rounds import LevelRun, TargetRound, run_rounds, summarize
from tuneport.stages.benchmarks.endpoint.scenarios import SEARCH_STEPS, highest_rate
from tuneport.stages.benchmarks.endpoint.short import SHORT_TOKENS, select_short_text
from tuneport.stages.benchmarks.endpoint.targets import (
    BENTO_BATCHER,
    TORCH_FP32,
    EndpointTarget,
    null_target,
)
from tuneport.stages.benchmarks.load.main import SLICES
from tuneport.stages.benchmarks.load.plan import OK, LoadResult
from tuneport.stages.benchmarks.soak.run import SoakConfig, soak


@pytest.fixture(scope="module")
def task(tiny_artifact: Path, manifest: Manifest) -> RuntimeTask:
    return open_task(tiny_artifact, manifest.task, manifest.labels, manifest.processing)


@pytest.mark.parametrize(("limit", "found"), [(70.0, 70.0), (1000.0, 120.0), (0.5, None)])
def test_the_search_finds_the_highest_rate_that_holds_the_objective(limit: float, found: float | None) -> None:
    def measure(rate: float) -> RateResult:
        return RateResult(
            offered_per_s=rate, answered_per_s=rate, latency_ms_p50=1, latency_ms_p99=rate, failed=0,
            client_cpu_share=0.1, holds=rate <= limit,
        )  # fmt: skip

    highest, rates = highest_rate(measure, 120.0)
    assert highest == (pytest.approx(found, rel=0.04) if found else None)
    assert len(rates) == SEARCH_STEPS
    assert all(rate.holds == (rate.offered_per_s <= limit) for rate in rates)


def test_resource_usage_counts_descendants_in_their_own_sessions() -> None:
    """BentoML starts its workers as leaders of sessions."""
    burn = "\n".join(
        (
            "import time",
            "while time.process_time() < 0.4: pass",
            "held = bytearray(60_000_000)",
            "input()",
        )
    )
    start = f"subprocess.Popen([sys.executable, '-c', {burn!r}], start_new_session=True).wait()"
    child = f"import subprocess, sys; {start}"
    process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE)
    try:
        for _ in range(200):
            usage = resource_usage(process.pid)
            if usage.worker_mib > 50:
                break
            threading.Event().wait(0.05)
        assert usage.cpu_s >= 0.3
        assert usage.total_mib > usage.worker_mib > 50
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()
    assert resource_usage(os.getpid()).worker_mib > 1


def test_padding_share_is_taken_over_all_rounds() -> None:
    assert tokens_between(None, TokenCounts(1, 1)) is None
    assert tokens_between(TokenCounts(100, 10), TokenCounts(300, 30)) == TokenCounts(200, 20)
    assert padding_share([TokenCounts(100, 10), None, TokenCounts(300, 10)]) == 0.05
    assert padding_share([None, TokenCounts(0, 0)]) is None


def test_a_short_text_has_sixteen_tokens(task: RuntimeTask) -> None:
    text, row = select_short_text(task, ["bank " * 40, "team"]) or ("", None)
    assert row is not None
    assert len(row) == SHORT_TOKENS
    assert text == " ".join(["bank"] * (SHORT_TOKENS - 2))
    assert select_short_text(task, [{"question": "x", "context": "y"}]) is None


@pytest.mark.slow
def test_the_whole_benchmark(tiny_artifact: Path, tmp_path: Path) -> None:
    config = EndpointConfig(
        artifact=tiny_artifact, connections=(1, 4), seconds=1.0, rounds=1, num_inputs=40, slo_p99_ms=500
    )
    report = bench_endpoint(config, tmp_path / "report")
    names = [result.name for result in report.results]
    assert names[0] == HTTP
    assert BENTO_BATCHER in names
    assert TORCH_FP32 in names
    for result in report.results:
        assert result.agreement >= 0.95
        assert result.worker_mib > 50
        assert [level.connections for level in result.levels] == [1, 4]
        for level in result.levels:
            assert level.requests_per_s > 0
            assert level.latency_ms_p50 <= level.latency_ms_p95
            assert level.latency_ms_p99 is None or level.latency_ms_p95 <= level.latency_ms_p99
            assert level.requests_per_s_interval is not None
            assert 0 <= level.requests_per_s_interval[0] <= level.requests_per_s_interval[1]
            assert level.errors == 0
            assert level.cpu_ms_per_request > 0
    written = {"report.html", "report.json", "report.md", "report.png"}
    assert {file.name for file in (tmp_path / "report").iterdir()} == written
    assert [search.name for search in report.rate_searches] == names
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(name in text for name in names)
    assert report.overload.goodput_per_s > 0
    assert report.short_text is not None


@pytest.mark.slow
def test_a_soak_reports_memory_and_every_request(tiny_artifact: Path) -> None:
    result = soak(SoakConfig(artifact=tiny_artifact, requests=500, connections=2))
    assert (result.requests, result.lost, result.wrong, result.retried) == (500, 0, 0, {})
    assert len(result.memory) >= 2
    assert all(each.worker_mib > 50 for each in result.memory)


def one_round(cpu_ms: float = 1.0) -> TargetRound:
    load = LoadResult(
        seconds=1, answered=10, answered_by_slice=(1,) * SLICES, latencies_ms=(1.0,), statuses={OK: 10}, sent=10,
        client_cpu_s=0.1,
    )  # fmt: skip
    return TargetRound(1.0, 1.0, {4: LevelRun(load, cpu_ms, None, 0)}, ResourceUsage(1.0, 100.0, 200.0))


@pytest.mark.parametrize("is_peer", [True, False])
def test_a_peer_that_does_not_start_is_left_out_and_named_and_a_server_of_ours_is_an_error(
    monkeypatch: pytest.MonkeyPatch, is_peer: bool
) -> None:
    starts = []

    def run(setup: Any, target: EndpointTarget) -> TargetRound:
        starts.append(target.name)
        if target.name == "bad":
            raise TuneportError("the server ended at its start: no such library", "fix it")
        return one_round()

    monkeypatch.setattr("tuneport.stages.benchmarks.endpoint.rounds.run_round", run)
    targets = [replace(null_target(), name="good"), replace(null_target(), name="bad", is_peer=is_peer)]
    setup: Any = SimpleNamespace(targets=targets, config=SimpleNamespace(rounds=3), meter=GpuMeter())
    if not is_peer:
        with pytest.raises(TuneportError, match="no such library"):
            run_rounds(setup, lambda _: None)
        return
    results, notes = run_rounds(setup, lambda _: None)
    assert [each.name for each in results] == ["good"]
    assert notes == ("bad was left out: the server ended at its start: no such library.",)
    assert starts == ["good", "bad", "good", "good"]  # it is not tried again


def test_a_level_on_a_gpu_has_utilization_and_energy() -> None:
    target_round = one_round()
    meter = GpuMeter()
    assert summarize("a", [target_round], meter).gpu_memory_mib is None
    usages = {
        "a": GpuUsage(memory_mib=800.0),
        "a at 4": GpuUsage(utilization=0.6, energy_j_per_1000_texts=9.0),
    }
    meter.usage = usages.__getitem__  # type: ignore[assignment]
    result = summarize("a", [target_round, target_round], meter)
    assert result.gpu_memory_mib == 400.0  # the meter adds up the starts of both rounds
    assert result.levels[0].requests_per_s_interval == (10.0, 10.0)
    assert (result.levels[0].gpu_utilization, result.levels[0].energy_j_per_1000_requests) == (0.6, 9.0)
