"""Every limit of the HTTP server, over real connections to the application in this process."""

import gzip
import http.client
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from kit.engines import StalledEngine, fail_with, wait_until
from kit.serving import LocalService, assert_error

from tuneport.errors import TuneportError
from tuneport.stages.serve import logs, tracing
from tuneport.stages.serve.process import GRPC, HTTP, METRICS, check_ports, free_port, listen
from tuneport.stages.serve.request_executors import LARGE
from tuneport.stages.serve.settings import Settings, read_settings


@pytest.fixture
def serve(tiny_artifact: Path) -> Iterator[Callable[..., LocalService]]:
    """A function that serves the tiny artifact with the settings that a test chooses."""
    services: list[LocalService] = []

    def open_service(**settings: Any) -> LocalService:
        services.append(LocalService.open(tiny_artifact, **settings))
        return services[-1]

    yield open_service
    for service in services:
        service.close()


def test_keys_are_asked_for_but_not_by_health(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("third\n\nfourth \n")
    service = serve(api_keys="first, second", api_keys_file=tmp_path / "keys")
    assert_error(service.post(), 401, "no API key")
    for wrong in ("", "fir", "first,second", "firsté", "first "[:5] + "x"):
        assert_error(service.post(headers={"x-api-key": wrong.encode()}), 401)
    assert_error(service.post(headers={"authorization": "Basic first"}), 401)
    for key in ("first", "second", "third", "fourth"):
        assert service.post(headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert service.post(headers={"x-api-key": key}).status_code == 200
    # A wrong key in one header does not hide the right one in the other.
    assert service.post(headers={"authorization": "Bearer wrong", "x-api-key": "third"}).status_code == 200
    assert service.post(headers={"authorization": "Bearer third", "x-api-key": "wrong"}).status_code == 200
    assert service.post(headers={"authorization": "Basic first", "x-api-key": "third"}).status_code == 200
    assert service.get("/v2/health/ready").status_code == 200
    for path in ("/v2", "/metrics", "/docs.json", "/nowhere"):
        answer = service.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


def test_health_checks_are_answered_under_load_and_leave_no_record(serve: Any) -> None:
    service = serve(max_concurrent_requests=1)
    engine = StalledEngine.of(service.runner, stalled=True)
    first = service.post_in_background()
    wait_until(lambda: engine.calls)
    for path in ("/v2/health/live", "/v2/health/ready", "/"):
        assert service.get(path).status_code == 200
    engine.resume()
    first.join()
    recorded = [name for name in read_metrics(service) if name.startswith("tuneport_requests_total")]
    assert recorded == ['tuneport_requests_total{operation="predict",protocol="http",status="200"}']


@pytest.mark.parametrize("content", [None, "", " \n\n"])
def test_a_file_without_keys_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "keys").write_text(content)
    monkeypatch.setenv("TUNEPORT_API_KEYS_FILE", str(tmp_path / "keys"))
    with pytest.raises(TuneportError, match="TUNEPORT_API_KEYS"):
        read_settings()


@pytest.mark.parametrize("content", ["# the old one\nk", "cl\u00e9", "two words"])
def test_a_key_that_no_header_holds_stops_the_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").write_text(content, encoding="utf-8")
    with pytest.raises(TuneportError, match="no header holds"):
        Settings(api_keys_file=tmp_path / "keys").keys()


def test_a_keys_file_of_windows(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbffirst\r\nsecond\r\n")
    assert Settings(api_keys_file=tmp_path / "keys").keys() == (b"first", b"second")


@pytest.mark.parametrize("name", ["request_timeout_s", "body_timeout_s", "max_queue_ms"])
def test_no_limit_is_infinite(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"TUNEPORT_{name.upper()}", "inf")
    with pytest.raises(TuneportError, match=f"TUNEPORT_{name.upper()}: Input should be a finite number"):
        read_settings()


def test_files_that_are_no_certificate_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("nothing")
    settings = Settings(tls_certfile=tmp_path / "pem", tls_keyfile=tmp_path / "pem")
    with pytest.raises(TuneportError, match="are no certificate and its key"):
        settings.tls()


def test_half_of_tls_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_TLS_CERTFILE", str(tmp_path / "certificate"))
    with pytest.raises(TuneportError, match="certificate and its key"):
        read_settings()
    monkeypatch.setenv("TUNEPORT_TLS_KEYFILE", str(tmp_path / "key"))
    with pytest.raises(TuneportError, match="TLS"):
        read_settings()


def test_keys_are_not_in_what_is_printed_of_the_settings() -> None:
    assert "secret" not in repr(Settings(api_keys="secret"))


def test_only_named_origins_may_call_from_their_pages(serve: Any) -> None:
    headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    closed, opened = serve(), serve(cors_origins="https://a.example, https://b.example", api_keys="k")
    assert "access-control-allow-origin" not in httpx.options(f"{closed.url}/predict", headers=headers).headers
    answer = httpx.options(f"{opened.url}/predict", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    other = httpx.options(f"{opened.url}/predict", headers={**headers, "origin": "https://c.example"})
    assert "access-control-allow-origin" not in other.headers


def test_more_requests_than_places_are_429_at_once(serve: Any) -> None:
    service = serve(max_concurrent_requests=1)
    engine = StalledEngine.of(service.runner, stalled=True)
    first = service.post_in_background()
    wait_until(lambda: len(engine.calls) == 1)
    answer = service.post()
    assert_error(answer, 429, "at most 1")
    assert answer.headers["retry-after"] == "1"
    assert service.get("/v2/health/live").status_code == 200
    engine.resume()
    first.join()
    assert service.post().status_code == 200
    assert read_metrics(service)['tuneport_rejected_requests_total{protocol="http"}'] == 1


def test_too_many_tokens_are_413(serve: Any) -> None:
    service = serve(max_tokens=10)
    assert service.post(["bank fell"]).status_code == 200
    assert_error(service.post(["bank fell", "team won", "the team"]), 413, "TUNEPORT_MAX_TOKENS")


def test_too_much_text_is_413_before_it_is_tokenized(serve: Any) -> None:
    service = serve(max_chars=12)
    assert service.post(["bank", "the team"]).status_code == 200
    assert_error(service.post(["bank", "the teams"]), 413, "13 characters", "TUNEPORT_MAX_CHARS")
    assert_error(service.post({"text": "the bank fell"}), 413, "TUNEPORT_MAX_CHARS")


def test_very_many_parameters_are_one_short_error(serve: Any) -> None:
    service = serve()
    for parameters in ({f"p{i}": i for i in range(100_000)}, {"p" * 1_000_000: 1}):
        answer = httpx.post(f"{service.url}/predict", json={"inputs": "bank", "parameters": parameters}, timeout=30)
        assert_error(answer, 422)
        assert len(answer.content) < 3000


def test_an_offer_of_http_2_leaves_the_body(serve: Any) -> None:
    body = b'{"inputs": "bank"}'
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    head += b"HTTP2-Settings: AAMAAABkAAQ\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", serve().port), timeout=10) as client:
        client.sendall(head + body)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_client_that_leaves_is_not_computed_for(serve: Any) -> None:
    service = serve()
    engine, streams = StalledEngine.of(service.runner, stalled=True), service.runner.streams
    busy: list[threading.Thread] = []
    while len(busy) < streams:
        busy.append(service.post_in_background())
        wait_until(lambda: len(engine.calls) == len(busy))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.url}/predict", json={"inputs": "team"}, timeout=0.2)
    wait_until(lambda: service.inference.batcher.waiting == 0)
    engine.resume()
    for thread in busy:
        thread.join()
    assert len(engine.calls) == streams
    wait_until(lambda: read_metrics(service).get('tuneport_cancelled_total{protocol="http"}'))


def send_slowly(service: LocalService, *parts: bytes) -> bytes:
    """Send parts of a request, then wait for what comes back until the connection closes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
            if b"\r\n\r\n" in received and b"error" in received:
                break
    return received


def test_a_slow_body_is_408(serve: Any) -> None:
    service = serve(body_timeout_s=0.2)
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
    assert b" 408 " in send_slowly(service, head, b'{"inputs"').splitlines()[0]
    assert service.post().status_code == 200


def test_a_body_that_is_not_read_to_its_end_closes_the_connection(serve: Any) -> None:
    service = serve(body_timeout_s=0.2, max_body_bytes=1000)
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    for length, status in ((100, b" 408 "), (100_000, b" 413 ")):
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
            connection.sendall(head % length + b"x" * min(length - 1, 2000))
            received = b""
            while chunk := connection.recv(4096):  # until it is closed
                received += chunk
        assert status in received.splitlines()[0]
        assert b"connection: close" in received.lower()


def read_status(connection: socket.socket) -> int:
    """Read a whole response."""
    response = http.client.HTTPResponse(connection, method="POST")
    response.begin()
    response.read()
    return response.status


def send_for_ever(connection: socket.socket) -> None:
    for _ in range(1000):
        connection.sendall(b"x")
        time.sleep(0.02)


@pytest.mark.parametrize("refusal", ["early", "application"])
def test_the_body_of_a_refused_request_has_a_time_limit(serve: Any, refusal: str) -> None:
    """A client that goes on sending slowly keeps its connection no longer than the body's time."""
    service = serve(body_timeout_s=0.3, keep_alive_s=30, max_concurrent_requests=1, header_timeout_s=30)
    path = {"early": b"/predict", "application": b"/nothing/there"}[refusal]
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" % path
    with service.admission.acquire_slot() if refusal == "early" else nullcontext():
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
            connection.sendall(head)
            assert read_status(connection) in (404, 429)
            with pytest.raises(ConnectionError):  # reset at a byte that comes after the end
                send_for_ever(connection)


@pytest.mark.parametrize("path", [b"/predict", b"/nothing/there"])
def test_a_refused_request_whose_body_comes_in_time_leaves_the_connection(serve: Any, path: bytes) -> None:
    service = serve(body_timeout_s=0.2, max_concurrent_requests=1)
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n" % path
    with service.admission.acquire_slot(), socket.create_connection(("127.0.0.1", service.port)) as connection:
        for _ in range(2):
            connection.sendall(head)
            assert read_status(connection) in (404, 429)
            connection.sendall(b"{}")
            time.sleep(0.3)


def test_a_body_that_declares_too_many_bytes_is_413_before_it_is_sent(serve: Any) -> None:
    service = serve(max_body_bytes=1000, body_timeout_s=20)
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000000\r\nexpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head)
        assert b" 413 " in connection.recv(4096).splitlines()[0]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_closes_its_sending_side_gets_its_answer(serve: Any, version: str) -> None:
    service = serve()
    engine = StalledEngine.of(service.runner, stalled=True)
    body = b'{"inputs": "bank"}'
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(f"POST /predict HTTP/{version}\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: engine.calls)
        time.sleep(0.3)
        engine.resume()
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
    head, answer = received.rsplit(b"\r\n\r\n", 1)
    assert b" 200 OK" in head
    assert json.loads(answer)["predictions"]


@pytest.mark.parametrize("parts", [(), (b"POST /predict HTTP/1.1\r\nhost:",), (b"G", b"E", b"T")])
def test_slow_headers_close_the_connection(serve: Any, parts: tuple[bytes, ...]) -> None:
    service = serve(header_timeout_s=0.3)
    began = time.monotonic()
    assert send_slowly(service, *parts) == b""
    assert 0.2 < time.monotonic() - began < 10
    with httpx.Client(base_url=service.url) as client:
        for _ in range(3):
            assert client.post("/predict", json={"inputs": "bank"}).status_code == 200
            time.sleep(0.4)


def post_compressed(service: LocalService, body: bytes, encoding: str = "gzip") -> httpx.Response:
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    return httpx.post(f"{service.url}/predict", content=body, headers=headers, timeout=30)


def test_a_body_may_be_compressed_with_gzip_alone(serve: Any) -> None:
    service = serve()
    body = b'{"inputs": "bank"}'
    assert post_compressed(service, gzip.compress(body)).json() == service.post().json()
    assert post_compressed(service, body, "identity").status_code == 200
    for encoding in ("br", "deflate", "gzip, gzip"):
        assert_error(post_compressed(service, body, encoding), 415, "Content-Encoding", encoding)


@pytest.mark.parametrize(
    "body",
    [b"", b'{"inputs": "bank"}', gzip.compress(b"{}")[:-4], gzip.compress(b"{}") + b"x", 2 * gzip.compress(b"{}")],
    ids=["empty", "not compressed", "cut", "more behind it", "two streams"],
)
def test_a_body_that_is_not_one_gzip_stream_is_400(serve: Any, body: bytes) -> None:
    assert_error(post_compressed(serve(), body), 400, "gzip")


def test_a_compressed_body_of_any_size_is_read_to_its_end(serve: Any) -> None:
    service, content = serve(), b'{"inputs": "bank"}'
    for size, level in ((0, 0), (LARGE - 1, 9), (LARGE, 9), (LARGE + 1, 9), (3 * LARGE, 0)):
        body = gzip.compress(content.ljust(size), compresslevel=level)
        assert post_compressed(service, body).status_code == 200
        assert_error(post_compressed(service, body[:-4]), 400, "no end")
        assert_error(post_compressed(service, body + b"x"), 400, "follows")


def test_a_small_compressed_body_does_not_wait_for_large_ones(serve: Any) -> None:
    service, goes_on = serve(), threading.Event()
    service.inference.executors._large.submit(goes_on.wait)  # the thread for large work is busy
    try:
        assert post_compressed(service, gzip.compress(b'{"inputs": "bank"}')).status_code == 200
    finally:
        goes_on.set()


def test_a_body_that_decompresses_to_too_much_is_413_and_takes_no_memory(serve: Any) -> None:
    service = serve(max_body_bytes=2**20)
    bomb = gzip.compress(bytes(2**28))
    assert len(bomb) < 2**20
    process = psutil.Process()
    before = process.memory_info().rss
    tracemalloc.start()
    try:
        assert_error(post_compressed(service, bomb), 413, str(2**20))
        assert tracemalloc.get_traced_memory()[1] < 2**24  # with the request's own 260 KB some times over
    finally:
        tracemalloc.stop()
    assert process.memory_info().rss - before < 2**27
    assert_error(post_compressed(service, gzip.compress(b" " * (2**20 + 1))), 413)
    assert post_compressed(service, gzip.compress(b'{"inputs": "bank"}' + b" " * 2**19)).status_code == 200


def test_the_metrics_may_have_a_port_of_their_own(serve: Any) -> None:
    port = free_port()
    service = serve(metrics_port=port)
    listening = service.admission.worker.families.listen(port, "127.0.0.1")
    service.post()
    assert service.get("/metrics").status_code == 404
    assert "tuneport_requests_total" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    with pytest.raises(TuneportError, match=str(port)):
        service.admission.worker.families.listen(port, "127.0.0.1")
    listening.shutdown()
    listening.server_close()


def read_metrics(service: LocalService) -> dict[str, float]:
    """Return the value of each metric of the model by its name and its labels, without the model's."""
    found: dict[str, float] = {}
    for line in service.get("/metrics").text.splitlines():
        if not line.startswith(("#", "tuneport_build_info", "tuneport_process_")):
            name, _, value = line.rpartition(" ")
            bare, _, labels = name.partition("{")
            assert 'model_name="tiny"' in labels
            assert 'model_variant="fp32"' in labels
            kept = [each for each in labels.rstrip("}").split(",") if each and not each.startswith("model_")]
            found[f"{bare}{{{','.join(kept)}}}" if kept else bare] = float(value)
    return found


def test_the_metrics_count_what_happened(serve: Any) -> None:
    service = serve()
    answers = service.post(["bank", "team won the game", "bank " * 80]).json()["predictions"]
    service.post(7)
    found = read_metrics(service)
    assert found['tuneport_requests_total{operation="predict",protocol="http",status="200"}'] == 1
    assert found['tuneport_requests_total{operation="predict",protocol="http",status="422"}'] == 1
    assert found['tuneport_request_seconds_count{operation="predict",protocol="http"}'] == 2
    assert found["tuneport_inputs_total"] == 3
    assert found["tuneport_truncated_inputs_total"] == 1
    assert found['tuneport_tokens_total{device="cpu",worker="1"}'] == 3 + 6 + 64
    assert found["tuneport_queue_seconds_count"] == 3
    assert found["tuneport_confidence_count"] == 3
    assert found["tuneport_confidence_sum"] == pytest.approx(sum(each["score"] for each in answers), abs=1e-4)
    for label in {each["label"] for each in answers}:
        count = sum(each["label"] == label for each in answers)
        assert found[f'tuneport_predictions_total{{label="{label}"}}'] == count


def test_logs_are_json_with_ids_and_without_texts(serve: Any, capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up()
    private, open_log = serve(log_requests=True), serve(log_requests=True, log_inputs=True)
    private.post("a secret", headers={"x-request-id": "one"})
    open_log.post("a secret", headers={"x-request-id": "two"})
    fail_with(private.runner, RuntimeError("a secret"))
    private.post("a secret", headers={"x-request-id": "three"})
    logged: dict[tuple[str, str], Any] = {}
    for _ in range(500):  # the line of a request may follow its answer
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
        logged |= {(line["request_id"], line["event"]): line for line in lines}
        if {("one", "request"), ("two", "request"), ("three", "request")} <= logged.keys():
            break
        time.sleep(0.02)
    assert logged["one", "request"]["status"] == "200"
    assert logged["one", "request"]["operation"] == "predict"
    assert "secret" not in json.dumps([logged["one", "request"], logged["three", "request"], logged["three", "failed"]])
    assert logged["two", "request"]["inputs"] == ["a secret"]
    assert logged["three", "failed"]["exception"] == "RuntimeError"
    assert logged["three", "failed"]["at"]


def test_a_request_is_a_span_where_an_exporter_is_configured(
    serve: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(tracing.SDK_DISABLED, raising=False)  # a test that built a bento in this process has set it
    assert tracing.recorder({"name": "tiny"}) is None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    service = serve()
    trace = "0af7651916cd43dd8448eb211c80319c"
    service.post("a secret", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01", "x-request-id": "one"})
    printed = ""
    limit = time.monotonic() + 10
    while '"request_id": "one"' not in printed:
        assert time.monotonic() < limit
        time.sleep(0.05)
        printed += capfd.readouterr().out
    assert f"0x{trace}" in printed
    assert '"name": "predict"' in printed
    assert "secret" not in printed


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TUNEPORT_MAX_QUEUE_INPUT", "3", "did you mean TUNEPORT_MAX_QUEUE_INPUTS"),
        ("TUNEPORT_CORS_ORIGINS", "foo", "'foo' is no origin"),
    ],
)
def test_a_setting_that_is_nearly_right_is_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Kubernetes sets these for a service of this name.
    monkeypatch.setenv("TUNEPORT_SERVICE_PORT", "3000")
    monkeypatch.setenv("TUNEPORT_PORT_3000_TCP_ADDR", "10.0.0.1")
    read_settings()
    monkeypatch.setenv(name, value)
    with pytest.raises(TuneportError, match=message):
        read_settings()


@pytest.mark.parametrize("protocol", [HTTP, GRPC, METRICS])
def test_a_taken_port_is_one_line(protocol: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TuneportError, match=f"{protocol} cannot listen on 127.0.0.1:{port} .*; free it, or choose"):
            check_ports({HTTP: ("127.0.0.1", free_port()), protocol: ("127.0.0.1", port)})


def test_two_protocols_have_a_port_each_and_ports_that_are_not_used_are_not_checked() -> None:
    port = free_port()
    check_ports({HTTP: ("127.0.0.1", port), GRPC: ("127.0.0.1", 0), METRICS: ("127.0.0.1", None)})
    with pytest.raises(TuneportError, match="gRPC cannot listen"):
        check_ports({HTTP: ("127.0.0.1", port), GRPC: ("127.0.0.1", port)})


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"])
def test_a_host_without_a_valid_name_is_one_line(host: str) -> None:
    with pytest.raises(TuneportError, match=rf"HTTP cannot listen on {host}:3000 \(no host has such a name\); free"):
        check_ports({HTTP: (host, 3000)})


def test_a_name_that_nothing_resolves_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real look-up would need the network."""

    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(TuneportError, match=r"no\.such\.host:3000 \(Name or service not known\)"):
        check_ports({HTTP: ("no.such.host", 3000)})


@pytest.mark.parametrize(("host", "address"), [("::1", "::1"), ("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1")])
def test_a_port_is_opened_at_the_address_of_its_host(host: str, address: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            pytest.skip(f"nothing can listen on {host} here: {error}")
    with listen(host, 0, 1) as listening:
        assert listening.getsockname()[0] == address
        with pytest.raises(TuneportError, match="HTTP cannot listen"):
            check_ports({HTTP: (host, listening.getsockname()[1])})
