"""The short way of a request: no layers, no imports and no writes that it does not need, and the same answers."""

import asyncio
import http.client
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from kit import ROOT
from kit.engines import StalledEngine, wait_until
from kit.servers import Server
from kit.serving import local_service

from tuneport.errors import PayloadTooLarge
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.tasks.text_classification import Parameters
from tuneport.stages.serve import logs
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.grpc.wire import check_fields
from tuneport.stages.serve.http.app import create_app
from tuneport.stages.serve.lifecycle import PROBE_PATHS, PathSwitch, read_failed_start
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.process import free_port, running, supervisor_command
from tuneport.stages.serve.settings import START_REPORT

HOST = "127.0.0.1"
EMPTY_FIELD = b"\x2a\x00"
"""An input without content: field 5 of length 0."""


@pytest.fixture(scope="module")
def predictor(tiny_artifact: Path) -> Predictor:
    return Predictor(tiny_artifact, "fp32")


def test_a_request_s_texts_decode_together_as_they_do_one_by_one(predictor: Predictor) -> None:
    texts = ["bank", "the team won", "", "Größe 🙂", "bank " * 200]
    windows = predictor.task.encode_request(texts, Parameters())
    logits = np.random.default_rng(3).normal(0, 4, (len(texts), 3)).astype(np.float32)
    outputs: list[Any] = [[{"logits": row}] for row in logits]
    together = predictor.task.decode_request(texts, windows, outputs, Parameters())
    parts = zip(texts, windows, outputs, strict=True)
    assert together == [predictor.task.decode(*part, Parameters()) for part in parts]
    assert [each.get("truncated", False) for each in together] == [False, False, False, False, True]


@pytest.mark.parametrize("parameters", [{"top_k": 2}, {"threshold": 0.99}, {"explain": True}])
def test_parameters_that_change_the_answer_are_kept(predictor: Predictor, parameters: dict[str, Any]) -> None:
    [plain] = predictor.predict(["the team won the game"])
    assert predictor.predict(["the team won the game"], parameters) != [plain]
    assert predictor.predict(["the team won the game"], {}) == [plain]


def test_rows_without_positions_have_the_same_tokens(predictor: Predictor) -> None:
    texts = ["bank", "the team won, 42!", "", "bank " * 200, "x" * 4000]
    for row, other in zip(
        predictor.task.encode_request(texts, Parameters()), predictor.task.encode(texts), strict=True
    ):
        assert row == other


def test_a_message_with_one_field_too_many_is_refused() -> None:
    check_fields(EMPTY_FIELD * 10, 10)
    with pytest.raises(PayloadTooLarge):
        check_fields(EMPTY_FIELD * 11, 10)


def test_lines_of_requests_are_written_together_and_in_order(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[int] = []
    write = os.write

    def count(file: int, content: Any) -> int:
        pieces.append(len(content))
        return write(file, content)

    async def answer() -> None:
        for number in range(100):
            logs.log_request(request_id=str(number))
        assert not pieces
        logs.write_line(b'{"request_id":"after"}')
        logs.log_request(request_id="last")
        await asyncio.sleep(20 * logs.WRITE_AFTER_S)

    logs.write_pending()
    capfd.readouterr()
    monkeypatch.setattr(os, "write", count)
    asyncio.run(answer())
    monkeypatch.undo()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["request_id"] for line in lines] == [*map(str, range(100)), "after", "last"]
    assert len(pieces) < 10
    assert max(pieces) <= select.PIPE_BUF


def test_a_line_that_waits_when_its_loop_ends_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    async def answer(request_id: str) -> None:
        logs.log_request(request_id=request_id)

    async def answer_and_wait() -> None:
        logs.log_request(request_id="second")
        await asyncio.sleep(20 * logs.WRITE_AFTER_S)

    asyncio.run(answer("first"))
    asyncio.run(answer_and_wait())
    logs.log_request(request_id="third")  # without a loop
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["request_id"] for line in lines] == ["first", "second", "third"]


def test_only_the_paths_for_probes_go_to_the_server_s_own_application() -> None:
    called: list[tuple[str, str]] = []

    def app(name: str) -> Any:
        async def record(scope: Any, receive: Any, send: Any) -> None:
            called.append((name, scope.get("path", scope["type"])))

        return record

    switch = PathSwitch(app("ours"), app("probes"))
    for scope in ({"type": "http", "path": path} for path in ("/predict", "/livez\n", "/", "/docs.json")):
        asyncio.run(switch(scope, None, None))  # type: ignore[arg-type]
    for scope in ({"type": "lifespan"}, *({"type": "http", "path": path} for path in sorted(PROBE_PATHS))):
        asyncio.run(switch(scope, None, None))  # type: ignore[arg-type]
    assert [name for name, _ in called] == ["ours"] * 4 + ["probes"] * (1 + len(PROBE_PATHS))


def test_bentoml_serve_answers_its_own_paths_and_ours(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert [client.get(path).status_code for path in sorted(PROBE_PATHS)] == [200] * len(PROBE_PATHS)
        answer = client.post("/predict", json={"inputs": "bank"})
        assert answer.status_code == 200
        assert "x-request-id" in answer.headers
        assert client.get("/predict").status_code == 405
        assert client.get("/nowhere").json()["error"]["code"] == "not_routed"


@pytest.mark.parametrize("module", ["supervisor", "standalone", "http.app", "grpc.server", "inference", "process"])
def test_tuneport_serve_imports_no_bentoml(module: str) -> None:
    script = f"import sys, tuneport.stages.serve.{module}; print([n for n in ('bentoml', 'httpx') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def post_raw(connection: socket.socket, path: str, headers: str = "") -> tuple[int, dict[str, str], bytes]:
    """Send a request of one short text, and read its response."""
    body = b'{"inputs": "bank"}'
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    connection.sendall(head.encode() + body)
    response = http.client.HTTPResponse(connection, method="POST")
    response.begin()
    content = response.read()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, content


def refused_by_application(admission: AdmissionController, path: str) -> httpx.Response:
    """Return the response to a request that comes to the application while another one has the only slot."""

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(ModelRegistry(admission)))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post(path, json={"inputs": "bank"}, headers={"x-request-id": "mine"})

    return asyncio.run(post())


@pytest.mark.parametrize("path", ["/predict", "/v2/models/tiny/infer", "/rerank"])
def test_a_refusal_comes_before_the_application_and_is_as_its_own(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def is_not_called(**_: Any) -> None:
        raise AssertionError

    with local_service(tiny_artifact, max_concurrent_requests=1) as service:
        admission = service.admission
        with socket.create_connection((HOST, service.port)) as connection:
            assert post_raw(connection, "/predict")[0] == 200
            wait_until(lambda: not admission.worker._active_requests)  # it is answered a moment before it ends
            with admission.acquire_slot():
                expected = refused_by_application(admission, path)
                monkeypatch.setattr(admission, "acquire_slot", is_not_called)
                for _ in range(2):  # the connection goes on
                    status, headers, body = post_raw(connection, path, "X-Request-Id: mine\r\n")
                    assert (status, body) == (429, expected.content) == (expected.status_code, expected.content)
                    assert headers == dict(expected.headers)
                monkeypatch.undo()
            assert post_raw(connection, "/predict")[0] == 200
            wait_until(lambda: not admission.worker._active_requests)
        page = service.get("/metrics").text
        assert re.search(r'tuneport_rejected_requests_total\{.*protocol="http"\} 3.0', page)


def test_a_refusal_reveals_nothing_without_a_key(tiny_artifact: Path) -> None:
    with (
        local_service(tiny_artifact, max_concurrent_requests=1, api_keys="secret") as service,
        service.admission.acquire_slot(),
        socket.create_connection((HOST, service.port)) as connection,
    ):
        assert post_raw(connection, "/predict")[0] == 401
        assert post_raw(connection, "/predict", "X-Api-Key: secret\r\n")[0] == 429


def test_a_request_whose_answer_waits_is_not_overtaken_by_a_refusal(tiny_artifact: Path) -> None:
    """Pipelined requests are answered in their order."""
    with local_service(tiny_artifact, max_concurrent_requests=1) as service:
        engine = StalledEngine.of(service.runner, stalled=True)
        body = b'{"inputs": "bank"}'
        request = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        with socket.create_connection((HOST, service.port)) as connection:
            connection.sendall(2 * request)
            wait_until(lambda: engine.calls)
            engine.resume()
            received = b""
            while received.count(b"HTTP/1.1 200 OK") < 2:
                part = connection.recv(65536)
                assert part
                received += part
        assert b"429" not in received


def workers_of(supervisor: int) -> list[psutil.Process]:
    return psutil.Process(supervisor).children()


def test_a_worker_that_is_killed_is_replaced_but_not_by_another_artifact(artifact: Path) -> None:
    port = free_port()
    url = f"http://{HOST}:{port}"
    command = supervisor_command(artifact, host=HOST, port=port)
    with running(command, url, {"TUNEPORT_VARIANT": "fp32"}) as pid:
        predicted = httpx.post(f"{url}/predict", json={"inputs": "bank"}, timeout=30).json()
        assert [httpx.get(f"{url}{path}").status_code for path in ("/livez", "/healthz", "/readyz")] == [200] * 3
        [worker] = workers_of(pid)
        worker.kill()
        limit = time.monotonic() + 60
        while True:
            assert time.monotonic() < limit
            try:
                if httpx.get(f"{url}/readyz", timeout=60).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        assert httpx.post(f"{url}/predict", json={"inputs": "bank"}, timeout=30).json() == predicted
        manifest = artifact / "manifest.json"
        manifest.write_text(manifest.read_text() + "\n")  # as valid as before, and another one
        supervisor = psutil.Process(pid)
        report = Path(supervisor.environ()[START_REPORT])
        [worker] = workers_of(pid)
        worker.kill()
        assert supervisor.wait(60) == 0  # as at any signal to stop: the command that started it prints the reason
        error = read_failed_start(report)
    assert error
    assert error.problem == f"{artifact} was replaced while it was served"
