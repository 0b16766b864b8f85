"""The endpoint benchmark: its load counts right, its checks refuse wrong endpoints, its report says what was found."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from helpers import ROOT, read_rows, write_rows

from benchmarks import load_null
from benchmarks.endpoint import bench_endpoint
from benchmarks.endpoint_check import agreement, changed, expect
from benchmarks.endpoint_contenders import Contender, null, ours
from benchmarks.endpoint_metrics import Padding
from benchmarks.endpoint_processes import run_load, usage_of
from benchmarks.endpoint_rounds import EndpointConfig
from benchmarks.endpoint_short import TOKENS, choose_short
from benchmarks.load import LOST, OK, UNSENT, Load, Plan, Tally
from benchmarks.soak import soak
from export.files import GateError, TuneportError
from export.manifest import Manifest, load_golden
from serve.model import open_task
from serve.process import free_port
from serve.tasks import Task

BODIES = tuple(b'{"inputs": "text %d"}' % i for i in range(5))


@pytest.fixture
def null_port() -> Iterator[int]:
    """The server that does nothing, in a thread of its own."""
    port, loop = free_port(), asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(load_null.Null, "127.0.0.1", port))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield port
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(asyncio.sleep(0.05))  # for the transports to notice that the clients left
    loop.close()


def carry_out(**fields: Any) -> Tally:
    return asyncio.run(Load(Plan(path="/predict", **fields)).run())


@pytest.fixture(scope="module")
def task(tiny_artifact: Path, manifest: Manifest) -> Task:
    return open_task(tiny_artifact, manifest.task, manifest.labels, manifest.processing)


def test_a_closed_loop_counts_every_request(null_port: int) -> None:
    tally = carry_out(port=null_port, bodies=BODIES, connections=3, seconds=0.3)
    assert tally.statuses == {OK: tally.sent}
    assert 0 < tally.answered <= tally.sent
    assert len(tally.latencies_ms) == tally.answered
    assert list(tally.latencies_ms) == sorted(tally.latencies_ms)
    assert tally.last_bodies == dict.fromkeys(range(5), load_null.ANSWER)
    assert 0 < tally.client_cpu_s <= 0.5


def test_the_warm_up_does_not_count(null_port: int) -> None:
    tally = carry_out(port=null_port, bodies=BODIES, seconds=0.1, warm_up_s=0.4)
    assert 0 < tally.answered < tally.sent / 2


def test_once_sends_each_body_once(null_port: int) -> None:
    assert carry_out(port=null_port, bodies=BODIES, seconds=0, once=True).statuses == {OK: len(BODIES)}


def test_an_open_loop_keeps_its_rate_whatever_comes_back(null_port: int) -> None:
    tally = carry_out(port=null_port, bodies=BODIES, connections=50, seconds=1.0, requests_per_s=200.0)
    assert 140 < tally.sent < 260  # Poisson: 200 with a deviation of 14


def test_an_open_loop_says_what_it_could_not_send() -> None:
    """A server that accepts and never answers takes up all connections; latency must not hide that."""
    port = free_port()

    async def go() -> Tally:
        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.5)
            writer.close()

        async with await asyncio.start_server(swallow, "127.0.0.1", port):
            plan = Plan(path="/", port=port, bodies=BODIES, connections=2, seconds=0.3, requests_per_s=100.0)
            return await Load(plan).run()

    tally = asyncio.run(go())
    assert tally.statuses[LOST] == 2
    assert tally.statuses[UNSENT] > 10
    assert tally.answered == 0


def test_a_server_that_is_not_there_is_counted_not_raised() -> None:
    tally = carry_out(port=free_port(), bodies=BODIES, connections=2, seconds=0.1)
    assert tally.statuses.keys() == {LOST}
    assert tally.answered == 0


@pytest.mark.parametrize("size", [0, 10, 20_000, 60_000])
def test_the_grpc_load_understands_a_real_grpc_server(size: int) -> None:
    """Messages of every size arrive whole, in both directions; one that fails is counted as failed."""

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
        plan = Plan(protocol="grpc", port=port, path="/test.Echo/Say", bodies=bodies, seconds=0, once=True)
        tally = asyncio.run(Load(plan).run())
        again = plan.model_copy(update={"once": False, "seconds": 0.2, "connections": 3, "bodies": bodies[2:]})
        many = asyncio.run(Load(again).run())
    finally:
        server.stop(None).wait()
    assert tally.statuses == {OK: len(bodies) - 1, 500: 1}
    assert tally.last_bodies == {i: body + b"!" for i, body in enumerate(bodies) if i != 1}
    assert many.statuses.keys() == {OK}


def test_the_load_runs_in_a_process_of_its_own(null_port: int) -> None:
    tally = run_load(Plan(port=null_port, path="/", bodies=BODIES, connections=2, seconds=0.2))
    assert tally.answered > 0
    with pytest.raises(TuneportError, match="failed"):
        run_load(Plan(port=null_port, path="/", bodies=(), seconds=0.1))


def test_usage_counts_descendants_in_sessions_of_their_own() -> None:
    """BentoML starts its workers so."""
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
            usage = usage_of(process.pid)
            if usage.worker_mib > 50:
                break
            threading.Event().wait(0.05)
        assert usage.cpu_s >= 0.3
        assert usage.total_mib > usage.worker_mib > 50
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()
    assert usage_of(os.getpid()).worker_mib > 1


def test_padding_is_shared_out_over_rounds() -> None:
    assert Padding.between(None, Padding(1, 1)) is None
    assert Padding.between(Padding(100, 10), Padding(300, 30)) == Padding(200, 20)
    assert Padding.share([Padding(100, 10), None, Padding(300, 10)]) == 0.05
    assert Padding.share([None, Padding(0, 0)]) is None


def test_a_short_text_has_sixteen_tokens(task: Task) -> None:
    text, row = choose_short(task, ["bank " * 40, "team"]) or ("", None)
    assert row is not None
    assert len(row) == TOKENS
    assert text == " ".join(["bank"] * (TOKENS - 2))
    assert choose_short(task, [{"question": "x", "context": "y"}]) is None


def answers(expected: list[Any], wrong: int) -> dict[int, bytes]:
    """Answers to golden cases, the first of them wrong."""
    found = {i: {"label": each.prediction["label"], "score": 0.5} for i, each in enumerate(expected)}
    for i in range(wrong):
        found[i] = {"label": "nonsense", "score": 0.5}
    return {i: orjson.dumps({"predictions": [each]}) for i, each in found.items()}


def contender() -> Contender:
    return Contender("it", lambda _: [], "/predict", orjson.dumps, lambda body: orjson.loads(body)["predictions"][0])


@pytest.mark.parametrize(("wrong", "is_refused"), [(0, False), (1, False), (3, True)])
def test_an_endpoint_that_is_wrong_is_not_timed(
    tiny_artifact: Path, task: Task, monkeypatch: pytest.MonkeyPatch, wrong: int, is_refused: bool
) -> None:
    expected = expect(task, load_golden(tiny_artifact))
    bodies = answers(expected, wrong)
    tally = Tally(
        seconds=0, answered=0, latencies_ms=(), statuses={OK: len(bodies)}, sent=0, client_cpu_s=0, last_bodies=bodies
    )
    monkeypatch.setattr("benchmarks.endpoint_check.run_load", lambda _: tally)
    if is_refused:
        with pytest.raises(GateError, match="torch says"):
            agreement(contender(), 1, task, expected)
    else:
        assert agreement(contender(), 1, task, expected) == pytest.approx(1 - wrong / len(expected))


def test_an_endpoint_that_fails_is_not_timed(tiny_artifact: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(seconds=0, answered=0, latencies_ms=(), statuses={OK: 3, 500: 1}, sent=4, client_cpu_s=0)
    monkeypatch.setattr("benchmarks.endpoint_check.run_load", lambda _: tally)
    with pytest.raises(GateError, match="500"):
        agreement(contender(), 1, task, expect(task, load_golden(tiny_artifact)))


def test_answers_that_load_changes_are_counted_and_refused_when_many(tiny_artifact: Path, task: Task) -> None:
    expected = expect(task, load_golden(tiny_artifact))
    alone = [each.prediction for each in expected]
    assert changed(contender(), task, alone, answers(expected, 0)) == 0
    assert changed(contender(), task, alone, answers(expected, 1)) == 1
    with pytest.raises(GateError, match="under load"):
        changed(contender(), task, alone, answers(expected, 10))


@pytest.mark.slow
def test_the_whole_benchmark(tiny_artifact: Path, tmp_path: Path) -> None:
    config = EndpointConfig(artifact=tiny_artifact, connections=(1, 4), seconds=1.0, rounds=1, texts=40)
    report = bench_endpoint(config, tmp_path / "report")
    names = [standing.name for standing in report.standings]
    assert names[0] == "tuneport HTTP"
    assert "tuneport HTTP, BentoML's batcher" in names
    assert "BentoML + torch fp32" in names
    for standing in report.standings:
        assert standing.agreement >= 0.95
        assert standing.worker_mib > 50
        assert [level.connections for level in standing.levels] == [1, 4]
        for level in standing.levels:
            assert level.requests_per_s > 0
            assert level.latency_ms_p50 <= level.latency_ms_p95 <= level.latency_ms_p99
            assert level.errors == 0
            assert level.cpu_ms_per_request > 0
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"report.json", "report.md", "report.png"}
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(name in text for name in names)
    assert report.overload is not None
    assert report.short is not None


@pytest.mark.slow
def test_a_damaged_golden_case_stops_the_benchmark(artifact: Path, tmp_path: Path) -> None:
    """Ours answers right and golden.jsonl says otherwise: the server itself refuses to start, so nothing is timed."""
    rows = read_rows(artifact / "golden.jsonl")
    for row in rows:
        row["outputs"][0]["logits"].reverse()
    write_rows(artifact / "golden.jsonl", rows)
    with pytest.raises(TuneportError):
        bench_endpoint(EndpointConfig(artifact=artifact, connections=(1,), seconds=0.5, rounds=1), tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_a_soak_reports_memory_and_every_status(tiny_artifact: Path) -> None:
    found = soak(tiny_artifact, seconds=1.0, connections=2)
    assert found.statuses == {OK: found.requests}
    assert len(found.worker_mib) >= 2
    assert all(each > 50 for each in found.worker_mib)


def test_commands_name_real_services() -> None:
    command = null().command(1234)
    assert Path(command[1]).is_file()
    assert (ROOT / "benchmarks" / "peers" / "bento_torch.py").is_file()
    assert shutil.which(command[0])
    assert callable(ours)
