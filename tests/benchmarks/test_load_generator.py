"""The load generator counts right, in closed and open loops, over HTTP and gRPC."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import httpx
import numpy as np
import orjson
import pytest

from tuneport.errors import TuneportError
from tuneport.stages.benchmarks.endpoint.processes import run_load, start_server
from tuneport.stages.benchmarks.endpoint.targets import (
    null_target,
)
from tuneport.stages.benchmarks.load import null_server
from tuneport.stages.benchmarks.load.main import LoadGenerator
from tuneport.stages.benchmarks.load.plan import FAILED, LOST, OK, UNSENT, LoadPlan, LoadResult
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
    assert sum(each > 0 for each in result.answered_by_slice) >= 5  # a busy machine may answer none for a moment


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


def test_the_server_that_does_no_work_starts_and_responds() -> None:
    with start_server(null_target()) as server:
        response = httpx.post(f"http://127.0.0.1:{server.port}/predict", json={"inputs": "text"})
    assert response.json() == orjson.loads(null_server.BODY)
    assert server.http_port == server.port
    assert server.ready_s > 0
