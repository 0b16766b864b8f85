"""The service as processes: start, stop, failing workers, TLS, and its description."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from kit import ROOT
from kit.artifacts import timed_on_another_host
from kit.command import assert_one_line
from kit.reference import TorchReference
from kit.serving import infer_request
from kit.texts import random_texts

from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.grpc import open_inference_pb2 as messages
from tuneport.stages.serve.process import free_port, running, serve_environment

TEXTS = [text for text, _ in zip(random_texts(51), range(40), strict=False)]
HOST = "127.0.0.1"


def infer_over_grpc(port: int, texts: list[str], certificate: bytes | None = None) -> list[float]:
    address = f"localhost:{port}" if certificate else f"{HOST}:{port}"
    channel = (
        grpc.secure_channel(address, grpc.ssl_channel_credentials(certificate))
        if certificate
        else grpc.insecure_channel(address)
    )
    with channel:
        send = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=messages.ModelInferResponse.FromString,
        )
        return list(send(infer_request(texts), timeout=30, wait_for_ready=True).outputs[1].contents.fp32_contents)


@pytest.fixture(scope="module")
def servers(bento_tag: str) -> Iterator[tuple[str, int]]:
    port, grpc_port = free_port(), free_port()
    environment = {"TUNEPORT_VARIANT": "fp32", "TUNEPORT_GRPC_PORT": str(grpc_port), "TUNEPORT_GRPC_HOST": HOST}
    url = f"http://{HOST}:{port}"
    with running(serve_command(bento_tag, host=HOST, port=port), url, environment):
        yield url, grpc_port


def test_clients_of_both_protocols_at_once_get_torch_s_answers(servers: tuple[str, int], tiny_checkpoint: Path) -> None:
    url, grpc_port = servers
    expected = TorchReference(tiny_checkpoint).probabilities(TEXTS).max(-1)

    def over_http(chosen: list[int]) -> list[float]:
        answer = httpx.post(f"{url}/predict", json={"inputs": [TEXTS[i] for i in chosen]}, timeout=30)
        return [each["score"] for each in answer.json()["predictions"]]

    def over_grpc(chosen: list[int]) -> list[float]:
        return infer_over_grpc(grpc_port, [TEXTS[i] for i in chosen])

    async def send_all() -> None:
        chosen = [[(seed * 7 + step) % len(TEXTS) for step in range(1 + seed % 5)] for seed in range(30)]
        asked = [asyncio.to_thread(send_one, each) for each in chosen for send_one in (over_http, over_grpc)]
        for indices, scores in zip(
            (i for each in chosen for i in (each, each)), await asyncio.gather(*asked), strict=True
        ):
            assert scores == pytest.approx([expected[i] for i in indices], abs=2e-4)

    asyncio.run(send_all())


def test_the_api_keeps_to_its_description(servers: tuple[str, int]) -> None:
    """Schemathesis makes requests of /docs.json, right and wrong ones."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{servers[0]}/docs.json"]
    options = ["--checks", "all", "--max-examples", "12", "--phases", "examples,coverage,fuzzing", "--seed", "1"]
    done = subprocess.run(
        [*command, *options, "--no-color"], capture_output=True, text=True, timeout=200, cwd="/tmp", check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    described = described_paths(servers[0])
    assert {"/predict", "/v2/models/{model}/infer"} <= described


def test_a_path_with_a_line_break_is_404_in_json(servers: tuple[str, int]) -> None:
    for path in ("/v2%0A", "/v2/models/%0A/infer", "/predict%0A", "/livez%0A"):
        answer = httpx.post(f"{servers[0]}{path}")
        assert answer.status_code == 404
        assert "line break" in str(answer.json()["error"])


def described_paths(url: str) -> set[str]:
    return set(httpx.get(f"{url}/docs.json").json()["paths"])


def start(tag: str, log: Path, **environment: str) -> tuple["subprocess.Popen[bytes]", str]:
    """Start plain `bentoml serve`; returns the process and its URL before it is ready."""
    port = free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            serve_command(tag, host=HOST, port=port),
            env={**serve_environment(), "TUNEPORT_VARIANT": "fp32", "TUNEPORT_GRPC_PORT": "0", **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    return process, f"http://{HOST}:{port}"


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_a_stop_says_not_ready_answers_for_a_while_and_ends(bento_tag: str, tmp_path: Path) -> None:
    log, grpc_port = tmp_path / "log", free_port()
    process, url = start(
        bento_tag, log, TUNEPORT_DRAIN_S="1.5", TUNEPORT_GRPC_PORT=str(grpc_port), TUNEPORT_GRPC_HOST=HOST
    )
    try:
        wait_until_ready(url, process, log)
        with httpx.Client(base_url=url, timeout=30) as client:
            process.send_signal(signal.SIGTERM)
            limit = time.monotonic() + 1.0
            while client.get("/v2/health/ready").status_code == 200:
                assert time.monotonic() < limit
            assert client.get("/readyz").status_code == 503
            assert client.post("/predict", json={"inputs": "bank"}).status_code == 200
            assert len(infer_over_grpc(grpc_port, ["bank"])) == 1
        assert process.wait(30) == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/livez")
    finally:
        process.kill()
    assert '"event":"stopping"' in log.read_text()


def test_what_is_under_way_when_a_stop_comes_is_answered(bento_tag: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process, url = start(bento_tag, log, TUNEPORT_MAX_BATCH_TOKENS="64")  # many small batches: it takes a while
    try:
        wait_until_ready(url, process, log)
        answers = []
        texts = ["the team won the game " * 20] * 500
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/predict", json={"inputs": texts}, timeout=60))
        )
        asking.start()
        time.sleep(0.25)
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert process.wait(40) == 0
    finally:
        process.kill()
    assert answers[0].status_code == 200
    assert len(answers[0].json()["predictions"]) == 500


def workers(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [each for each in children if "_bentoml_impl.worker.service" in each.cmdline()]


def connections_of(chosen: list[psutil.Process], url: str, number: int) -> list[int]:
    """Open connections at once and send a request over each; returns how many each process has."""
    opened = [socket.create_connection((HOST, int(url.rpartition(":")[2]))) for _ in range(number)]
    try:
        for connection in opened:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        for connection in opened:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        ports = {connection.getsockname()[1] for connection in opened}
        return [sum(bool(each.raddr) and each.raddr.port in ports for each in p.net_connections()) for p in chosen]
    finally:
        for connection in opened:
            connection.close()


@pytest.mark.slow
def test_when_a_worker_is_killed_the_other_goes_on_and_it_comes_back(bento_tag: str, tmp_path: Path) -> None:
    log, grpc_port = tmp_path / "log", free_port()
    process, url = start(
        bento_tag, log, TUNEPORT_WORKERS="2", TUNEPORT_GRPC_PORT=str(grpc_port), TUNEPORT_GRPC_HOST=HOST
    )
    try:
        wait_until_ready(url, process, log)
        while log.read_text().count('"event":"ready"') < 2:
            time.sleep(0.05)
        before = workers(process)
        assert len(before) == 2
        counts = connections_of(before, url, 16)
        assert sum(counts) == 16
        assert min(counts) >= 4
        before[0].kill()
        statuses = []
        limit = time.monotonic() + 30
        while log.read_text().count('"event":"ready"') < 3:
            assert time.monotonic() < limit, log.read_text()
            try:
                statuses.append(httpx.post(f"{url}/predict", json={"inputs": "bank"}, timeout=10).status_code)
            except httpx.TransportError:  # a connection that the killed one had accepted
                statuses.append(0)
            time.sleep(0.05)
        assert statuses.count(200) >= len(statuses) - 1 > 0
        assert before[1].is_running()
        assert len(workers(process)) == 2
        assert len(infer_over_grpc(grpc_port, ["bank"])) == 1
        # As BentoML does when another service of the same user starts.
        shutil.rmtree(Path(os.environ["BENTOML_HOME"]) / "prometheus_multiproc_dir")
        page = httpx.get(f"{url}/metrics").text
        counted = [
            line for line in page.splitlines() if line.startswith("tuneport_requests_total{") and '"200"' in line
        ]
        assert sum(float(line.rpartition(" ")[2]) for line in counted) >= statuses.count(200)
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"TUNEPORT_VARIANT": "fp64"}, "TUNEPORT_VARIANT is set, and the artifact has no variant 'fp64'"),
        ({"TUNEPORT_GRPC_PORT": "{taken}"}, "gRPC cannot listen"),
        ({"TUNEPORT_MAX_CLIENT_BATCH_SIZE": "0"}, "TUNEPORT_MAX_CLIENT_BATCH_SIZE"),
    ],
)
def test_a_start_that_fails_exits_with_1_and_the_reason(
    servers: tuple[str, int], tiny_artifact: Path, environment: dict[str, str], reason: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tuneport", "serve", str(tiny_artifact), "--port", str(free_port())],
        cwd=ROOT,
        env={
            **os.environ,
            "TUNEPORT_GRPC_PORT": "0",
            **{name: value.format(taken=servers[1]) for name, value in environment.items()},
        },
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1
    assert_one_line(done.stderr, reason)


def test_both_protocols_use_tls(bento_tag: str, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    asked = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = subprocess.run(
        [*asked.split(), *names, "-keyout", str(key), "-out", str(certificate)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    port, grpc_port = free_port(), free_port()
    environment = {
        "TUNEPORT_VARIANT": "fp32",
        "TUNEPORT_TLS_CERTFILE": str(certificate),
        "TUNEPORT_TLS_KEYFILE": str(key),
        "TUNEPORT_HEADER_TIMEOUT_S": "2",
        "TUNEPORT_GRPC_PORT": str(grpc_port),
        "TUNEPORT_GRPC_HOST": HOST,
    }
    url = f"https://{HOST}:{port}"
    with running(serve_command(bento_tag, host=HOST, port=port), url, environment):
        context = ssl.create_default_context(cafile=str(certificate))
        answer = httpx.post(f"{url}/predict", json={"inputs": "bank"}, verify=context, timeout=30).json()
        assert infer_over_grpc(grpc_port, ["bank"], certificate.read_bytes()) == pytest.approx(
            [answer["predictions"][0]["score"]]
        )
        with pytest.raises(httpx.TransportError):
            httpx.post(f"http://{HOST}:{port}/predict", json={"inputs": "bank"})
        with socket.create_connection((HOST, port), timeout=20) as silent:  # well before TLS' own timeout, a minute
            assert silent.recv(100) == b""


def test_a_service_on_another_host_logs_its_autotuning(artifact: Path, tmp_path: Path) -> None:
    tag, log = register(timed_on_another_host(artifact, cores=99)), tmp_path / "log"
    port = free_port()
    environment = {name: value for name, value in serve_environment().items() if name != "TUNEPORT_VARIANT"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            serve_command(SERVICE, host=HOST, port=port, model=tag),
            env={**environment, "TUNEPORT_GRPC_PORT": "0"},
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://{HOST}:{port}"
        wait_until_ready(url, process, log)
        served = httpx.post(f"{url}/predict", json={"inputs": "bank"}, timeout=30).json()["model"]["variant"]
    finally:
        process.terminate()
        process.wait(30)
    [line] = [line for line in log.read_text().splitlines() if "autotuned" in line]
    assert f'"serves":"{served}"' in line
