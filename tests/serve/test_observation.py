"""What observes the service (log, metrics, traces) never fails a request, and counts what it should."""

import asyncio
import contextlib
import http.server
import json
import logging
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from kit.engines import StalledEngine, wait_until
from kit.serving import LocalService, infer_request, local_service
from test_grpc import Client, call_server  # noqa: F401 -- a fixture

from tuneport import __version__
from tuneport.stages.serve import logs, observing, tracing
from tuneport.stages.serve.drift import ANSWER, NO_LABEL, Observation, observations
from tuneport.stages.serve.metrics.processes import ProcessCollector
from tuneport.stages.serve.settings import METRICS_FOLDER

NOT_OPEN = 1_000_000
"""Number of a file that no process has."""
OTLP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


@pytest.fixture(params=["full disk", "reader gone", "reader stuck", "closed"])
def broken_log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A file descriptor in the place of standard error that cannot be written."""
    reader, writer = os.pipe()
    if request.param == "full disk":
        log = os.open("/dev/full", os.O_WRONLY)
    else:
        log = NOT_OPEN if request.param == "closed" else os.dup(writer)
    if request.param == "reader stuck":
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(writer, b"x" * 4096):
                pass
        os.set_blocking(writer, True)
    os.close(writer)
    if request.param == "reader gone":
        os.close(reader)
    monkeypatch.setattr(logs, "STDERR", log)
    yield log
    if request.param != "closed":
        os.close(log)
    if request.param != "reader gone":
        os.close(reader)


def test_a_log_that_cannot_be_written_fails_no_request(broken_log: int, tiny_artifact: Path, call_server: Any) -> None:  # noqa: F811
    logs.set_up()
    logs.log("an event")
    with local_service(tiny_artifact, log_requests=True, log_inputs=True) as service:
        assert service.post("bank " * 5000).status_code == 200
        assert service.post(7).status_code == 422

    async def conversation(client: Client) -> Any:
        return await client.infer(infer_request(["bank", "team"]))

    assert len(call_server(conversation, log_requests=True).outputs[0].contents.bytes_contents) == 2


@pytest.mark.parametrize(
    ("group", "broken"),
    [
        ("requests", "count"),
        ("requests", "in_flight"),
        ("answers", "predictions"),
        ("engine", "batch"),
        ("engine", "waiting"),
    ],
)
def test_metrics_that_fail_fail_no_request(
    group: str,
    broken: str,
    tiny_artifact: Path,
    call_server: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(observing, "_logged", set())
    with local_service(tiny_artifact) as service:
        monkeypatch.setattr(getattr(service.admission.metrics, group), broken, fail)
        assert [service.post(text).status_code for text in ("bank", "team")] == [200, 200]

    async def conversation(client: Client) -> Any:
        monkeypatch.setattr(getattr(client.admission.metrics, group), broken, fail)
        return await client.infer(infer_request(["bank"]))

    assert call_server(conversation).outputs
    logged = [each.tuneport_fields["what"] for each in caplog.records if each.message == "not observed"]  # type: ignore[attr-defined]
    assert logged
    assert len(logged) == len({*logged})


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_ends_the_process_or_the_request_is_no_failed_observation(error: BaseException) -> None:
    with pytest.raises(type(error)), observing.Observing("a test"):
        raise error


def test_the_files_of_several_workers_metrics_have_their_blocks_on_the_disk(tmp_path: Path) -> None:
    """A process that writes into a hole of a mapped file is killed when the disk is full."""
    program = (
        "from tuneport.stages.serve.metrics.families import Families\n"
        "from tuneport.stages.serve.metrics.model import Metrics\n"
        "import os\n"
        "metrics = Metrics({'name': 'tiny', 'version': '1', 'variant': 'fp32'}, Families(processes=2))\n"
        "def full(*_): raise OSError(28, 'No space left on device')\n"
        "os.posix_fallocate = full\n"
        "try:\n"
        "    for status in range(100_000): metrics.requests.count('http', 'predict', str(status), 0.1)\n"
        "except OSError as error: print(error.errno)\n"
        "assert b'tuneport_inputs_total' in metrics.page()[0]\n"
    )
    environment = {**os.environ, METRICS_FOLDER: str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "28"), done.stderr
    files = [*tmp_path.glob("*.db")]
    assert files
    assert all(512 * file.stat().st_blocks >= file.stat().st_size > 0 for file in files)


def test_every_line_of_the_process_is_json(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    other = logging.getLogger("bentoml.test")
    monkeypatch.setattr(other, "handlers", [logging.StreamHandler()])
    before = [(each, each.handlers, each.propagate) for each in map(logging.getLogger, logging.root.manager.loggerDict)]
    try:
        logs.set_up_process()
        other.warning("of a library\nin two lines")
        logs.log("of ours", answer=42)
    finally:
        logging.captureWarnings(False)
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
    first, second = map(json.loads, capfd.readouterr().err.splitlines())
    assert (first["event"], first["logger"], first["level"]) == (
        "of a library\nin two lines",
        "bentoml.test",
        "warning",
    )
    assert (second["event"], second["answer"]) == ("of ours", 42)


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted."""

    posted: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.posted.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def no_otel(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("OTEL_") or name == tracing.USERS_SDK_DISABLED]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    return monkeypatch


def test_spans_reach_a_collector(no_otel: pytest.MonkeyPatch, tiny_artifact: Path) -> None:
    pytest.importorskip(OTLP, reason="the OTLP exporter is not installed")
    posted: list[tuple[str, bytes]] = []
    kind = type("Kept", (Collector,), {"posted": posted})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        no_otel.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        try:
            with local_service(tiny_artifact) as service:
                service.post("a secret", headers={"x-request-id": "number-one"})
                wait_until(lambda: posted)
        finally:
            server.shutdown()
            thread.join()
    assert posted[0][0] == "/v1/traces"
    assert b"number-one" in posted[0][1]
    assert b"secret" not in posted[0][1]


@pytest.mark.parametrize(
    ("variables", "is_warned"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, False),  # nobody listens
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "no URL"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "missing": "yes"}, True),
    ],
)
def test_the_service_serves_without_traces(
    variables: dict[str, str],
    is_warned: bool,
    no_otel: pytest.MonkeyPatch,
    tiny_artifact: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if variables.pop("missing", None):
        no_otel.setitem(sys.modules, OTLP, None)
    elif OTLP not in sys.modules:
        pytest.importorskip(OTLP, reason="the OTLP exporter is not installed")
    for name, value in variables.items():
        no_otel.setenv(name, value)
    logs.set_up()
    with local_service(tiny_artifact) as service:
        assert service.post("bank").status_code == 200
    assert ('"event":"no traces"' in capfd.readouterr().err) == is_warned


def test_the_user_may_disable_traces(no_otel: pytest.MonkeyPatch) -> None:
    no_otel.setenv("OTEL_TRACES_EXPORTER", "console")
    assert tracing.recorder("tiny")
    no_otel.setenv(tracing.SDK_DISABLED, " True ")
    assert tracing.recorder("tiny") is None
    tracing.keep_bentoml_from_tracing()  # in the supervisor
    tracing.keep_bentoml_from_tracing()  # and in a worker
    assert os.environ[tracing.SDK_DISABLED] == "true"
    assert tracing.recorder("tiny") is None
    no_otel.setenv(tracing.USERS_SDK_DISABLED, "")
    assert tracing.recorder("tiny")
    assert os.environ[tracing.SDK_DISABLED] == "true"
    no_otel.setenv("OTEL_TRACES_EXPORTER", "none")
    assert tracing.recorder("tiny") is None


LABELS = [{"label": "a", "score": 0.75}, {"label": "b", "score": 0.25}]


@pytest.mark.parametrize(
    ("prediction", "has_several_labels", "expected"),
    [
        (LABELS[0], False, [Observation("a", 0.75)]),
        (LABELS, False, [Observation("a", 0.75)]),  # top_k: candidates
        (LABELS, True, [Observation("a", 0.75), Observation("b", 0.25)]),
        ([], True, [Observation(NO_LABEL)]),
        ([], False, [Observation(NO_LABEL)]),
        ({"label": None, "score": 0.4}, False, [Observation(NO_LABEL, 0.4)]),
        ([{"entity": "PER", "score": 0.5}, {"entity": "LOC", "score": 1.0}], False, [
            Observation("PER", 0.5), Observation("LOC", 1.0)
        ]),
        ({"answer": "Rome", "score": 0.9, "start": 1, "end": 5}, False, [Observation(ANSWER, 0.9)]),
        ({"answer": "", "score": 0.9, "start": 0, "end": 0}, False, [Observation(NO_LABEL, 0.9)]),
        ({"score": 2.5}, False, [Observation(value=2.5)]),
        ({"score": [2.5, -1.0], "truncated": True}, False, [Observation(value=2.5), Observation(value=-1.0)]),
        ({"text": "yes", "finish_reason": "length"}, False, [Observation("length")]),
    ],
)  # fmt: skip
def test_every_kind_of_prediction_is_counted(
    prediction: Any, has_several_labels: bool, expected: list[Observation]
) -> None:
    assert list(observations(prediction, has_several_labels=has_several_labels)) == expected


def test_answers_under_their_threshold_and_values_are_in_the_metrics(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact) as service:
        service.post(["bank", "team"])
        send(service, {"inputs": ["bank", "team", "bank"], "parameters": {"threshold": 1.0}})
        service.admission.metrics.answers.predictions([{"score": 2.0}, {"score": 3.0}])
        service.admission.metrics.answers.predictions([LABELS, LABELS], has_several_labels=True)
        page = service.get("/metrics").text
    assert count(page, 'tuneport_predictions_total{label="(none)"') == 3
    assert count(page, "tuneport_predicted_value_sum") == 5.0
    assert count(page, 'tuneport_predictions_total{label="b"') == 2
    assert count(page, "tuneport_confidence_count") == 5 + 4


def send(service: LocalService, content: Any) -> None:
    assert httpx.post(f"{service.url}/predict", json=content, timeout=30).status_code == 200


def count(page: str, start: str) -> float:
    [line] = [line for line in page.splitlines() if line.startswith(start)]
    return float(line.rpartition(" ")[2])


def readings(page: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf"^{name}(?:\{{.*?\}})? (\S+)$", page, re.M)]


def test_the_gauges_say_what_is_in_flight_and_what_serves(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact) as service:
        engine = StalledEngine.of(service.runner, stalled=True)
        requests = [service.post_in_background() for _ in range(3)]
        wait_until(lambda: readings(service.get("/metrics").text, "tuneport_requests_in_flight") == [3.0])
        engine.resume()
        for request in requests:
            request.join()
        wait_until(lambda: readings(service.get("/metrics").text, "tuneport_requests_in_flight") == [0.0])
        page = service.get("/metrics").text
    assert readings(page, "tuneport_engine_streams") == [service.runner.streams]
    assert f'tuneport_build_info{{python="{platform.python_version()}",version="{__version__}"}} 1.0' in page
    own = psutil.Process()
    assert readings(page, "tuneport_process_start_time_seconds") == [own.create_time()]
    [memory] = readings(page, "tuneport_process_resident_memory_bytes")
    assert memory == pytest.approx(own.memory_info().rss, rel=0.5)
    assert f'process="worker",pid="{own.pid}"' in page or f'pid="{own.pid}",process="worker"' in page


def test_every_process_of_a_service_is_in_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none that has ended, or that is another one's child."""
    monkeypatch.setenv("TUNEPORT_RUN_FOLDER", str(tmp_path))
    monkeypatch.setenv("TUNEPORT_SUPERVISOR_PID", str(os.getpid()))
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as engine,
    ):
        for record in (f"worker-{worker.pid}", f"engine-{engine.pid}", "worker-1", f"worker-{2**22 + 1}"):
            (tmp_path / record).touch()
        families = {family.name: family for family in ProcessCollector().collect()}
        worker.communicate(b"\n")
        engine.communicate(b"\n")
    found = families["tuneport_process_open_fds"].samples
    assert [each.labels for each in found] == [
        {"process": "worker", "pid": str(worker.pid)},
        {"process": "engine", "pid": str(engine.pid)},
    ]
    assert all(each.value > 0 for each in found)
