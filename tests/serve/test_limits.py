"""Every limit of the HTTP door, over real connections to the application in this process."""

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from test_http import assert_error

from tuneport.errors import TuneportError
from tuneport.stages.serve import logs
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.http.app import create_app
from tuneport.stages.serve.lifecycle import _impatient
from tuneport.stages.serve.predictor import Predictor
from tuneport.stages.serve.process import free_port
from tuneport.stages.serve.settings import Settings, read_settings


class Door:
    """An application that serves in a thread, with an engine that can be held up."""

    def __init__(self, artifact: Path, chosen: dict[str, Any]) -> None:
        self.settings = Settings(**{"variant": "fp32", "log_requests": False, **chosen})
        predictor = Predictor(artifact, self.settings)
        self.admission = AdmissionController(predictor, self.settings)
        app = create_app(self.admission, self.settings.origins())
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(app, port=self.port, log_config=None, lifespan="off", ws="none", http="httptools")
        config.load()
        config.http_protocol_class = _impatient(config.http_protocol_class, self.settings.header_timeout_s)
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()))
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.open, self.runs = threading.Event(), 0
        self.open.set()
        self._run = predictor.model.engine.run
        predictor.model.engine.run = self.run  # type: ignore[method-assign]

    def run(self, feeds: Any) -> Any:
        self.runs += 1
        assert self.open.wait(30)
        return self._run(feeds)

    def post(self, content: Any = "bank", **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json={"inputs": content}, timeout=30, **options)

    def in_background(self, count: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=self.post) for _ in range(count)]
        for thread in threads:
            thread.start()
        return threads

    def wait_for(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < limit
            time.sleep(0.005)

    def close(self) -> None:
        self.open.set()
        self.server.should_exit = True
        self._thread.join()
        self.admission.predictor.close()


@pytest.fixture
def door(tiny_artifact: Path) -> Iterator[Callable[..., Door]]:
    made: list[Door] = []

    def make(**chosen: Any) -> Door:
        made.append(Door(tiny_artifact, chosen))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_keys_are_asked_for_but_not_by_health(door: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("third\n\nfourth \n")
    served = door(api_keys="first, second", api_keys_file=tmp_path / "keys")
    assert_error(served.post(), 401, "no API key")
    for wrong in ("", "fir", "first,second", "firsté", "first "[:5] + "x"):
        assert_error(served.post(headers={"x-api-key": wrong.encode()}), 401)
    assert_error(served.post(headers={"authorization": "Basic first"}), 401)
    for key in ("first", "second", "third", "fourth"):
        assert served.post(headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert served.post(headers={"x-api-key": key}).status_code == 200
    assert httpx.get(f"{served.url}/v2/health/ready").status_code == 200
    for path in ("/v2", "/metrics", "/docs.json", "/nowhere"):
        answer = httpx.get(f"{served.url}{path}")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


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


def test_only_named_origins_may_call_from_their_pages(door: Any) -> None:
    headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    closed, opened = door(), door(cors_origins="https://a.example, https://b.example", api_keys="k")
    assert "access-control-allow-origin" not in httpx.options(f"{closed.url}/predict", headers=headers).headers
    answer = httpx.options(f"{opened.url}/predict", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    other = httpx.options(f"{opened.url}/predict", headers={**headers, "origin": "https://c.example"})
    assert "access-control-allow-origin" not in other.headers


def test_more_requests_than_places_are_429_at_once(door: Any) -> None:
    served = door(max_concurrent_requests=1)
    served.open.clear()
    first = served.in_background(1)
    served.wait_for(lambda: served.runs == 1)
    answer = served.post()
    assert_error(answer, 429, "at most 1")
    assert answer.headers["retry-after"] == "1"
    assert httpx.get(f"{served.url}/v2/health/live").status_code == 200
    served.open.set()
    first[0].join()
    assert served.post().status_code == 200
    assert 'tuneport_rejected_requests_total{protocol="http"' in httpx.get(f"{served.url}/metrics").text


def test_too_many_tokens_are_413(door: Any) -> None:
    served = door(max_tokens=10)
    assert served.post(["bank fell"]).status_code == 200
    assert_error(served.post(["bank fell", "team won", "the team"]), 413, "TUNEPORT_MAX_TOKENS")


def test_too_much_text_is_413_before_it_is_tokenized(door: Any) -> None:
    served = door(max_chars=12)
    assert served.post(["bank", "the team"]).status_code == 200
    assert_error(served.post(["bank", "the teams"]), 413, "13 characters", "TUNEPORT_MAX_CHARS")
    assert_error(served.post({"text": "the bank fell"}), 413, "TUNEPORT_MAX_CHARS")


def test_very_many_parameters_are_one_short_error(door: Any) -> None:
    served = door()
    for parameters in ({f"p{i}": i for i in range(100_000)}, {"p" * 1_000_000: 1}):
        answer = httpx.post(f"{served.url}/predict", json={"inputs": "bank", "parameters": parameters}, timeout=30)
        assert_error(answer, 422)
        assert len(answer.content) < 3000


def test_an_offer_of_http_2_leaves_the_body(door: Any) -> None:
    body = b'{"inputs": "bank"}'
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    head += b"HTTP2-Settings: AAMAAABkAAQ\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", int(door().url.rsplit(":", 1)[1])), timeout=10) as client:
        client.sendall(head + body)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_client_that_leaves_is_not_computed_for(door: Any) -> None:
    served = door()
    streams = served.admission.predictor.model.streams
    served.open.clear()
    busy: list[threading.Thread] = []
    while len(busy) < streams:
        busy += served.in_background(1)
        served.wait_for(lambda: served.runs == len(busy))  # noqa: B023 -- it is called at once
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{served.url}/predict", json={"inputs": "team"}, timeout=0.2)
    served.wait_for(lambda: served.admission.predictor.batcher.waiting == 0)
    served.open.set()
    for thread in busy:
        thread.join()
    assert served.runs == streams
    served.wait_for(lambda: 'tuneport_cancelled_total{protocol="http"' in httpx.get(f"{served.url}/metrics").text)


def send_slowly(served: Door, *parts: bytes) -> bytes:
    """Send parts of a request, then wait for what comes back until the connection closes."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
            if b"\r\n\r\n" in received and b"error" in received:
                break
    return received


def test_a_slow_body_is_408(door: Any) -> None:
    served = door(body_timeout_s=0.2)
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
    assert b" 408 " in send_slowly(served, head, b'{"inputs"').splitlines()[0]
    assert served.post().status_code == 200


@pytest.mark.parametrize("parts", [(), (b"POST /predict HTTP/1.1\r\nhost:",), (b"G", b"E", b"T")])
def test_slow_headers_close_the_connection(door: Any, parts: tuple[bytes, ...]) -> None:
    served = door(header_timeout_s=0.3)
    began = time.monotonic()
    assert send_slowly(served, *parts) == b""
    assert 0.2 < time.monotonic() - began < 10
    with httpx.Client(base_url=served.url) as client:
        for _ in range(3):
            assert client.post("/predict", json={"inputs": "bank"}).status_code == 200
            time.sleep(0.4)


def test_a_compressed_body_is_refused(door: Any) -> None:
    served = door()
    assert_error(served.post(headers={"content-encoding": "gzip"}), 415, "Content-Encoding")


def test_the_metrics_may_have_a_port_of_their_own(door: Any) -> None:
    port = free_port()
    served = door(metrics_port=port)
    listening = served.admission.metrics.listen(port, "127.0.0.1")
    served.post()
    assert httpx.get(f"{served.url}/metrics").status_code == 404
    assert "tuneport_requests_total" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    with pytest.raises(TuneportError, match=str(port)):
        served.admission.metrics.listen(port, "127.0.0.1")
    listening.shutdown()
    listening.server_close()


def figures(served: Door) -> dict[str, float]:
    """Read the page: name with its labels but for the model's → value."""
    found: dict[str, float] = {}
    for line in httpx.get(f"{served.url}/metrics").text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            bare, _, labels = name.partition("{")
            assert 'model_name="tiny"' in labels
            assert 'model_variant="fp32"' in labels
            kept = [each for each in labels.rstrip("}").split(",") if each and not each.startswith("model_")]
            found[f"{bare}{{{','.join(kept)}}}" if kept else bare] = float(value)
    return found


def test_the_metrics_tell_what_happened(door: Any) -> None:
    served = door()
    answers = served.post(["bank", "team won the game", "bank " * 80]).json()["predictions"]
    served.post(7)
    found = figures(served)
    assert found['tuneport_requests_total{protocol="http",operation="predict",status="200"}'] == 1
    assert found['tuneport_requests_total{protocol="http",operation="predict",status="422"}'] == 1
    assert found['tuneport_request_seconds_count{protocol="http",operation="predict"}'] == 2
    assert found["tuneport_inputs_total"] == 3
    assert found["tuneport_truncated_inputs_total"] == 1
    assert found["tuneport_tokens_total"] == 3 + 6 + 64
    assert found["tuneport_queue_seconds_count"] == 3
    assert found["tuneport_confidence_count"] == 3
    assert found["tuneport_confidence_sum"] == pytest.approx(sum(each["score"] for each in answers), abs=1e-4)
    for label in {each["label"] for each in answers}:
        count = sum(each["label"] == label for each in answers)
        assert found[f'tuneport_predictions_total{{label="{label}"}}'] == count


def test_logs_are_json_with_ids_and_without_texts(door: Any, capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up()
    discreet, open_hearted = door(log_requests=True), door(log_requests=True, log_inputs=True)
    discreet.post("a secret", headers={"x-request-id": "one"})
    open_hearted.post("a secret", headers={"x-request-id": "two"})

    def fail(feeds: Any) -> Any:
        raise RuntimeError("a secret")

    discreet.admission.predictor.model.engine.run = fail
    discreet.post("a secret", headers={"x-request-id": "three"})
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    said = {(line["request_id"], line["event"]): line for line in lines}
    assert said["one", "request"]["status"] == "200"
    assert said["one", "request"]["operation"] == "predict"
    assert "secret" not in json.dumps([said["one", "request"], said["three", "request"], said["three", "failed"]])
    assert said["two", "request"]["inputs"] == ["a secret"]
    assert said["three", "failed"]["exception"] == "RuntimeError"
    assert said["three", "failed"]["at"]


def test_a_request_is_a_span_where_an_exporter_is_configured(
    door: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from tuneport.stages.serve import tracing

    assert tracing.recorder({"name": "tiny"}) is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    served = door()
    trace = "0af7651916cd43dd8448eb211c80319c"
    served.post("a secret", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01", "x-request-id": "one"})
    said = ""
    limit = time.monotonic() + 10
    while '"request_id": "one"' not in said:
        assert time.monotonic() < limit
        time.sleep(0.05)
        said += capfd.readouterr().out
    assert f"0x{trace}" in said
    assert '"name": "predict"' in said
    assert "secret" not in said


def test_an_exporter_that_is_not_installed_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from tuneport.stages.serve import tracing

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(TuneportError, match="exporter is not installed"):
        tracing.recorder({"name": "tiny"})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TUNEPORT_MAX_INPUT", "3", "did you mean TUNEPORT_MAX_CLIENT_BATCH_SIZE"),
        ("TUNEPORT_CORS_ORIGINS", "foo", "'foo' is no origin"),
    ],
)
def test_a_setting_that_is_nearly_right_is_refused(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuneport.errors import TuneportError
    from tuneport.stages.serve.settings import read_settings

    # What Kubernetes sets for a service of this name is nobody's mistake.
    monkeypatch.setenv("TUNEPORT_SERVICE_PORT", "3000")
    monkeypatch.setenv("TUNEPORT_PORT_3000_TCP_ADDR", "10.0.0.1")
    read_settings()
    monkeypatch.setenv(name, value)
    with pytest.raises(TuneportError, match=said):
        read_settings()


def test_a_taken_http_port_is_one_line() -> None:
    import socket

    from tuneport.errors import TuneportError
    from tuneport.stages.serve.process import check_port

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TuneportError, match="HTTP cannot listen on"):
            check_port("127.0.0.1", taken.getsockname()[1])
