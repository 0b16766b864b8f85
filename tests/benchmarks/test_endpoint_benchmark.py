"""The endpoint benchmark: the load generator counts right, wrong servers are refused, the report is complete."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import orjson
import pytest
from kit.artifacts import reseal
from kit.data import read_rows, write_rows

from tuneport.errors import ArtifactError, GateError, TuneportError
from tuneport.gpu import GpuMeter, GpuUsage
from tuneport.runtime.loading import open_task
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import GOLDEN, File, Manifest
from tuneport.schema.loading import load_golden, load_manifest
from tuneport.stages.benchmarks.config import EndpointConfig
from tuneport.stages.benchmarks.endpoint.check import (
    ExpectedPrediction,
    check_agreement,
    count_changed,
    expected_predictions,
)
from tuneport.stages.benchmarks.endpoint.main import bench_endpoint
from tuneport.stages.benchmarks.endpoint.metrics import TokenCounts, padding_share, tokens_between
from tuneport.stages.benchmarks.endpoint.peers import SCRIPTS, peer_targets
from tuneport.stages.benchmarks.endpoint.processes import ResourceUsage, resource_usage, run_load, start_server
from tuneport.stages.benchmarks.endpoint.results import RateResult
from tuneport.stages.benchmarks.endpoint.rounds import LevelRun, TargetRound, summarize
from tuneport.stages.benchmarks.endpoint.scenarios import SEARCH_STEPS, highest_rate
from tuneport.stages.benchmarks.endpoint.short import SHORT_TOKENS, select_short_text
from tuneport.stages.benchmarks.endpoint.targets import (
    BENTO_BATCHER,
    GRPC,
    HTTP,
    TORCH_FP16,
    TORCH_FP32,
    EndpointTarget,
    absent_targets,
    endpoint_targets,
    null_target,
    served_device,
    torch_targets,
)
from tuneport.stages.benchmarks.load import null_server
from tuneport.stages.benchmarks.load.main import SLICES, LoadGenerator
from tuneport.stages.benchmarks.load.plan import FAILED, LOST, OK, UNSENT, LoadPlan, LoadResult
from tuneport.stages.benchmarks.peers.registry import FAILED as FAILED_FILE
from tuneport.stages.benchmarks.peers.registry import PEERS
from tuneport.stages.benchmarks.soak.run import SoakConfig, soak
from tuneport.stages.serve.process import free_port

BODIES = tuple(b'{"inputs": "text %d"}' % i for i in range(5))


@pytest.fixture
def null_port() -> Iterator[int]:
    """Serve the server that does no work from a thread."""
    port, loop = free_port(), asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(null_server.NullServer, "127.0.0.1", port))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield port
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(asyncio.sleep(0.05))  # for the transports to notice that the clients left
    loop.close()


def generate_load(**fields: Any) -> LoadResult:
    return asyncio.run(LoadGenerator(LoadPlan(path="/predict", **fields)).run())


@pytest.fixture(scope="module")
def task(tiny_artifact: Path, manifest: Manifest) -> RuntimeTask:
    return open_task(tiny_artifact, manifest.task, manifest.labels, manifest.processing)


def test_a_closed_loop_counts_every_request(null_port: int) -> None:
    result = generate_load(port=null_port, bodies=BODIES, connections=3, seconds=0.3)
    assert result.statuses == {OK: result.sent}
    assert 0 < result.answered <= result.sent
    assert len(result.latencies_ms) == result.answered
    assert list(result.latencies_ms) == sorted(result.latencies_ms)
    assert result.last_bodies == dict.fromkeys(range(5), null_server.BODY)
    assert 0 < result.client_cpu_s <= 0.5


def test_the_warm_up_does_not_count(null_port: int) -> None:
    result = generate_load(port=null_port, bodies=BODIES, seconds=0.1, warm_up_s=0.4)
    assert 0 < result.answered < result.sent / 2


def test_a_plan_with_once_sends_each_body_once(null_port: int) -> None:
    assert generate_load(port=null_port, bodies=BODIES, seconds=0, once=True).statuses == {OK: len(BODIES)}


def test_an_open_loop_keeps_its_rate(null_port: int) -> None:
    result = generate_load(port=null_port, bodies=BODIES, connections=50, seconds=1.0, requests_per_s=200.0)
    assert 140 < result.sent < 260  # Poisson: 200 with a deviation of 14


def test_an_open_loop_counts_latency_from_the_arrival_and_drops_no_late_response() -> None:
    """A server that stops for half a second makes all who arrive meanwhile wait, and so do the figures."""
    port = free_port()

    async def run() -> LoadResult:
        clock = asyncio.get_running_loop().time
        answers_from: list[float] = []

        async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(len(BODIES[0]))
                    answers_from.append(clock() + 0.6)
                    await asyncio.sleep(max(0.0, answers_from[0] - clock()))
                    writer.write(null_server.RESPONSE)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        async with await asyncio.start_server(respond, "127.0.0.1", port):
            plan = LoadPlan(path="/", port=port, bodies=BODIES, connections=500, seconds=0.5, requests_per_s=200.0)
            result = await LoadGenerator(plan).run()
            await asyncio.sleep(0.2)  # the server notices that the clients left
            return result

    result = asyncio.run(run())
    assert result.statuses == {OK: result.sent}
    assert len(result.latencies_ms) == result.sent  # though all responses came after the end of the load
    assert result.answered < result.sent
    assert max(result.latencies_ms) > 500
    assert np.median(result.latencies_ms) > 250


def test_responses_are_counted_by_tenths_of_the_load(null_port: int) -> None:
    result = generate_load(port=null_port, bodies=BODIES, seconds=0.5)
    assert len(result.answered_by_slice) == 10
    assert sum(result.answered_by_slice) == result.answered
    assert min(result.answered_by_slice) > 0


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


def test_peers_without_an_environment_are_named_with_the_reason(tmp_path: Path, manifest: Manifest) -> None:
    failed = tmp_path / "infinity"
    failed.mkdir()
    (failed / FAILED_FILE).write_text("ERROR: no version fits.\n")
    python = tmp_path / "litserve" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    targets, absent = peer_targets(tmp_path, manifest, tmp_path / "checkpoint", "cpu")
    assert [each.name for each in targets] == ["LitServe + torch"]
    command = targets[0].command(1234)
    assert command[0] == str(python)
    assert Path(command[1]).is_file()
    assert absent == (
        "FastAPI + torch: there is no environment in fastapi.",
        "infinity + torch: it cannot be installed here (ERROR: no version fits).",
    )
    assert peer_targets(None, manifest, tmp_path, "cpu")[0] == []
    assert all((SCRIPTS / f"{peer.folder}_server.py").is_file() for peer in PEERS)


def test_an_open_loop_counts_requests_that_it_could_not_send() -> None:
    """A server that accepts and never responds occupies all connections, which latencies alone would not show."""
    port = free_port()

    async def run() -> LoadResult:
        async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.5)
            writer.close()

        async with await asyncio.start_server(ignore, "127.0.0.1", port):
            plan = LoadPlan(path="/", port=port, bodies=BODIES, connections=2, seconds=0.3, requests_per_s=100.0)
            return await LoadGenerator(plan).run()

    result = asyncio.run(run())
    assert result.statuses[LOST] == 2
    assert result.statuses[UNSENT] > 10
    assert result.answered == 0


def test_a_missing_server_is_counted_not_raised() -> None:
    result = generate_load(port=free_port(), bodies=BODIES, connections=2, seconds=0.1)
    assert result.statuses.keys() == {LOST}
    assert result.answered == 0


@pytest.mark.parametrize("size", [0, 10, 20_000, 60_000])
def test_the_grpc_client_talks_to_a_real_grpc_server(size: int) -> None:
    """Messages of every size arrive complete in both directions; a call that fails is counted as failed."""

    def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request.startswith(b"fail"):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no")
        return request + b"!"

    handler = grpc.unary_unary_rpc_method_handler(echo)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        bodies = (b"x" * size, b"fail", *(bytes([i]) * 100 for i in range(20)))
        plan = LoadPlan(protocol="grpc", port=port, path="/test.Echo/Say", bodies=bodies, seconds=0, once=True)
        result = asyncio.run(LoadGenerator(plan).run())
        again = plan.model_copy(update={"once": False, "seconds": 0.2, "connections": 3, "bodies": bodies[2:]})
        many = asyncio.run(LoadGenerator(again).run())
    finally:
        server.stop(None).wait()
    assert result.statuses == {OK: len(bodies) - 1, FAILED: 1}
    assert result.last_bodies == {i: body + b"!" for i, body in enumerate(bodies) if i != 1}
    assert many.statuses.keys() == {OK}


def test_the_load_generator_runs_as_a_process(null_port: int) -> None:
    result = run_load(LoadPlan(port=null_port, path="/", bodies=BODIES, connections=2, seconds=0.2))
    assert result.answered > 0
    with pytest.raises(TuneportError, match="failed"):
        run_load(LoadPlan(port=null_port, path="/", bodies=(), seconds=0.1))


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


def responses(expected: list[ExpectedPrediction], num_wrong: int) -> dict[int, bytes]:
    """Return response bodies for golden cases; those of the first `num_wrong` have a wrong label."""
    found = {i: {"label": each.prediction["label"], "score": 0.5} for i, each in enumerate(expected)}
    for i in range(num_wrong):
        found[i] = {"label": "wrong", "score": 0.5}
    return {i: orjson.dumps({"predictions": [each]}) for i, each in found.items()}


def target() -> EndpointTarget:
    return EndpointTarget(
        "a server", lambda _: [], "/predict", orjson.dumps, lambda body: orjson.loads(body)["predictions"][0]
    )


def untimed(statuses: dict[int, int], **fields: Any) -> LoadResult:
    """Return the result of a plan that sends each body once and times nothing."""
    return LoadResult(
        seconds=0, answered=0, answered_by_slice=(0,) * SLICES, latencies_ms=(), statuses=statuses,
        sent=sum(statuses.values()), client_cpu_s=0, **fields,
    )  # fmt: skip


@pytest.mark.parametrize(("num_wrong", "is_refused"), [(0, False), (1, False), (3, True)])
def test_an_endpoint_that_is_wrong_is_not_timed(
    tiny_artifact: Path, task: RuntimeTask, monkeypatch: pytest.MonkeyPatch, num_wrong: int, is_refused: bool
) -> None:
    expected = expected_predictions(task, load_golden(tiny_artifact))
    bodies = responses(expected, num_wrong)
    result = untimed({OK: len(bodies)}, last_bodies=bodies)
    monkeypatch.setattr("tuneport.stages.benchmarks.endpoint.check.run_load", lambda _: result)
    if is_refused:
        with pytest.raises(GateError, match="torch predicts"):
            check_agreement(target(), 1, task, expected)
    else:
        assert check_agreement(target(), 1, task, expected) == pytest.approx(1 - num_wrong / len(expected))


def test_an_endpoint_that_fails_is_not_timed(
    tiny_artifact: Path, task: RuntimeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = untimed({OK: 3, 500: 1})
    monkeypatch.setattr("tuneport.stages.benchmarks.endpoint.check.run_load", lambda _: result)
    with pytest.raises(GateError, match="500"):
        check_agreement(target(), 1, task, expected_predictions(task, load_golden(tiny_artifact)))


def test_predictions_changed_by_load_are_counted_and_refused_when_many(tiny_artifact: Path, task: RuntimeTask) -> None:
    expected = expected_predictions(task, load_golden(tiny_artifact))
    unloaded = [case.prediction for case in expected]
    assert count_changed(target(), task, unloaded, responses(expected, 0)) == 0
    assert count_changed(target(), task, unloaded, responses(expected, 1)) == 1
    with pytest.raises(GateError, match="under load"):
        count_changed(target(), task, unloaded, responses(expected, 10))


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
            low, high = level.requests_per_s_interval or (0.0, 0.0)
            assert 0 <= low <= high
            assert level.errors == 0
            assert level.cpu_ms_per_request > 0
    written = {"report.html", "report.json", "report.md", "report.png"}
    assert {file.name for file in (tmp_path / "report").iterdir()} == written
    assert [search.name for search in report.rate_searches] == names
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(name in text for name in names)
    assert report.overload.goodput_per_s > 0
    assert report.short_text is not None


def reverse_golden_logits(artifact: Path) -> None:
    rows = read_rows(artifact / GOLDEN)
    for row in rows:
        row["outputs"][0]["logits"].reverse()
    write_rows(artifact / GOLDEN, rows)


def test_a_damaged_artifact_is_refused_before_a_server_starts(artifact: Path, tmp_path: Path) -> None:
    reverse_golden_logits(artifact)
    with pytest.raises(ArtifactError, match=r"golden\.jsonl is not the file that passed the gate"):
        bench_endpoint(EndpointConfig(artifact=artifact, connections=(1,), seconds=0.5, rounds=1), tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_a_server_that_does_not_reproduce_its_golden_cases_is_not_timed(artifact: Path, tmp_path: Path) -> None:
    """All hashes are right and the golden cases are not torch's: the server itself refuses to start."""
    reverse_golden_logits(artifact)
    files = [file for file in load_manifest(artifact).files if file.path != GOLDEN]
    reseal(artifact, {"files": [file.model_dump() for file in (*files, File.of(artifact, GOLDEN))]})
    with pytest.raises(TuneportError, match=r"did not start: variant \S+ differs from torch"):
        bench_endpoint(EndpointConfig(artifact=artifact, connections=(1,), seconds=0.5, rounds=1), tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_a_soak_reports_memory_and_every_request(tiny_artifact: Path) -> None:
    result = soak(SoakConfig(artifact=tiny_artifact, requests=500, connections=2))
    assert (result.requests, result.lost, result.wrong, result.retried) == (500, 0, 0, {})
    assert len(result.memory) >= 2
    assert all(each.worker_mib > 50 for each in result.memory)


def test_every_server_command_names_a_service_that_exists(
    tiny_artifact: Path, tiny_checkpoint: Path, manifest: Manifest
) -> None:
    targets = {each.name: each for each in endpoint_targets(tiny_artifact, manifest, tiny_checkpoint, None)}
    assert {HTTP, GRPC, BENTO_BATCHER, TORCH_FP32} <= set(targets)
    services = {}
    for name, each in targets.items():
        command = each.command(1234)
        assert Path(command[0]).samefile(sys.executable)
        (services[name],) = (word for word in command if word.startswith("tuneport.") and ":" in word)
    assert services[HTTP] == services[GRPC]
    assert len(set(services.values())) == 3
    for service in set(services.values()):
        module, _, name = service.partition(":")
        # In a process of its own: a service reads its settings, and BentoML its arguments, at import.
        check = f"import importlib, sys; sys.exit(0 if hasattr(importlib.import_module({module!r}), {name!r}) else 3)"
        assert subprocess.run([sys.executable, "-P", "-c", check], timeout=120, check=False).returncode == 0, service


def test_the_server_that_does_no_work_starts_and_responds() -> None:
    with start_server(null_target()) as server:
        response = httpx.post(f"http://127.0.0.1:{server.port}/predict", json={"inputs": "text"})
    assert response.json() == orjson.loads(null_server.BODY)
    assert server.http_port == server.port
    assert server.ready_s > 0


def test_torch_is_served_on_the_device_of_the_variant(manifest: Manifest, tiny_checkpoint: Path) -> None:
    (on_cuda,) = torch_targets(manifest, tiny_checkpoint, "cuda")
    assert on_cuda.name == TORCH_FP16
    assert (on_cuda.environment["DEVICE"], on_cuda.environment["DTYPE"]) == ("cuda", "float16")
    on_cpu = {each.name: each.environment for each in torch_targets(manifest, tiny_checkpoint, "cpu")}
    assert on_cpu[TORCH_FP32]["DEVICE"] == "cpu"
    assert TORCH_FP16 not in on_cpu
    assert not absent_targets(manifest, "cuda")
    for device, expected in (("cpu", "cpu"), ("tensorrt", "cuda")):
        variant = manifest.variants[0]
        execution = variant.execution.model_copy(update={"device": device})
        moved = manifest.model_copy(update={"variants": (variant.model_copy(update={"execution": execution}),)})
        assert served_device(moved, variant.name) == expected


def test_a_level_on_a_gpu_has_utilization_and_energy() -> None:
    load = LoadResult(
        seconds=1, answered=10, answered_by_slice=(1,) * SLICES, latencies_ms=(1.0,), statuses={OK: 10}, sent=10,
        client_cpu_s=0.1,
    )  # fmt: skip
    levels = {4: LevelRun(load, 1.0, None, 0)}
    target_round = TargetRound(1.0, 1.0, levels, ResourceUsage(1.0, 100.0, 200.0))
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
