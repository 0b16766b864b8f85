"""A device that runs out of memory or fails, while requests come over both protocols."""

import asyncio
import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kit import ROOT
from kit.engines import StalledEngine, wait_until
from kit.failing_service import FAILURE
from kit.failures import ARENA_FULL, LOST, fail_above
from kit.serving import LocalService, assert_error, local_service
from kit.texts import random_texts

from tuneport.errors import DeviceLost
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.scheduler import BatchLimits
from tuneport.stages.serve.batcher import Batcher
from tuneport.stages.serve.bento import register, serve_command
from tuneport.stages.serve.process import free_port, serve_environment

HOST = "127.0.0.1"
TEXTS = [text for text, _ in zip(random_texts(61), range(24), strict=False)]
LOST_TEXT = LOST["illegal access"]


def metric(page: str, name: str, *labels: str) -> float:
    """Add up the samples of a metric that have these labels."""
    lines = [
        line for line in page.splitlines() if line.startswith(f"{name}{{") and all(each in line for each in labels)
    ]
    assert lines, f"no {name} in the metrics"
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture
def service(tiny_artifact: Path) -> Iterator[LocalService]:
    with local_service(tiny_artifact) as service:
        yield service


def scores(response: httpx.Response) -> list[float]:
    return [each["score"] for each in response.json()["predictions"]]


def test_a_request_is_answered_in_parts_if_its_batches_do_not_fit(service: LocalService) -> None:
    expected = scores(service.post(TEXTS))
    sizes = fail_above(service.runner, 2, ARENA_FULL)
    assert scores(service.post(TEXTS)) == pytest.approx(expected, abs=1e-5)
    page = service.get("/metrics").text
    assert metric(page, "tuneport_halved_batches_total", 'device="cpu"', 'worker="1"') == sum(n > 2 for n in sizes) > 0
    assert metric(page, "tuneport_lost_devices_total") == 0


def test_an_input_that_does_not_fit_is_503_and_the_service_lives(service: LocalService) -> None:
    runner: Any = service.runner
    run = runner.backend.run

    def refuse_long(batch: Any) -> Any:
        if batch.feeds["input_ids"].shape[1] > 20:
            raise RuntimeError(ARENA_FULL)
        return run(batch)

    runner.backend.run = refuse_long
    with ThreadPoolExecutor(8) as pool:
        short = [pool.submit(service.post, "bank") for _ in range(20)]
        long = [pool.submit(service.post, "bank " * 40) for _ in range(4)]
        for each in long:
            assert_error(each.result(), 503, "device_out_of_memory", "too little free memory", "MAX_BATCH_TOKENS")
        assert [each.result().status_code for each in short] == [200] * 20
    assert service.get("/v2/health/ready").status_code == 200


def test_after_a_device_was_lost_nothing_runs_and_every_request_is_503(service: LocalService) -> None:
    lost = threading.Event()
    service.inference.on_device_lost = lost.set
    engine = StalledEngine.of(service.runner, stalled=True)
    sizes = fail_above(service.runner, 0, LOST_TEXT)
    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(service.post, text) for text in TEXTS]:
            assert_error(each.result(), 503, "device_lost", "CUDA failure 700", "another replica")
    assert lost.wait(30)
    ran = len(sizes)
    assert ran <= service.runner.streams
    assert_error(service.post(), 503, "device_lost")
    assert len(sizes) == ran
    assert engine.calls == []


def test_what_another_stream_computed_meanwhile_is_not_returned(service: LocalService) -> None:
    """Its memory may be damaged."""
    engine = StalledEngine.of(service.runner, stalled=True)
    first = service.inference
    rows = first.predictor.task.encode([first.predictor.task.parse_input("bank")])[0]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first._run_batch, rows)
        wait_until(lambda: engine.calls)
        first.lost_because = "CUDA failure 700"
        engine.resume()
        with pytest.raises(Exception, match="CUDA failure 700"):
            running.result()


def test_the_batcher_runs_no_row_again_on_a_lost_device() -> None:
    calls: list[int] = []

    def run(rows: Any) -> Any:
        calls.append(len(rows))
        raise DeviceLost("it")

    async def submit() -> list[Any]:
        batcher = Batcher(run, streams=1, limits=BatchLimits(64), max_queue_inputs=10)
        rows = [EncodedInput([1, 2], [0, 0], False)] * 3
        results = await asyncio.gather(batcher.submit(rows), return_exceptions=True)
        batcher.close()
        return results

    assert [type(each) for each in asyncio.run(submit())] == [DeviceLost]
    assert len(calls) == 1


class Process:
    """A service that can lose its device."""

    def __init__(self, artifact: Path, folder: Path, **environment: str) -> None:
        self.failure, self.log = folder / "failure", folder / "log"
        self.port, self.grpc_port = free_port(), free_port()
        self.url = f"http://{HOST}:{self.port}"
        environment = {
            "TUNEPORT_VARIANT": "fp32",
            "TUNEPORT_DRAIN_S": "60",  # a worker that lost its device does not wait for it
            "TUNEPORT_SHUTDOWN_GRACE_S": "1",
            "TUNEPORT_GRPC_PORT": str(self.grpc_port),
            "TUNEPORT_GRPC_HOST": HOST,
            FAILURE: str(self.failure),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
            **environment,
        }
        command = serve_command("kit.failing_service:Failing", host=HOST, port=self.port, model=register(artifact))
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command, env={**serve_environment(), **environment}, cwd=folder, stdout=out, stderr=subprocess.STDOUT
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of the log about an event."""
        assert self.process.poll() is None, self.log.read_text()
        lines = [line for line in self.log.read_text().splitlines() if f'"event":"{name}"' in line]
        return [json.loads(line) for line in lines]

    def post(self) -> httpx.Response | None:
        """Send a request; None if the worker ended while it had the connection, or none is there."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.post(f"{self.url}/predict", json={"inputs": TEXTS}, timeout=30)
        return None

    def kill(self) -> None:
        """End the service at once."""
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
            parent = psutil.Process(self.process.pid)
            for each in (*parent.children(recursive=True), parent):
                each.kill()
        self.process.wait(30)


@contextlib.contextmanager
def serving(artifact: Path, folder: Path, workers: int, **environment: str) -> Iterator[Process]:
    process = Process(artifact, folder, TUNEPORT_WORKERS=str(workers), **environment)
    try:
        wait_until(lambda: len(process.events("ready")) == workers)
        yield process
    finally:
        process.kill()


def lose_device(process: Process) -> list[httpx.Response]:
    """Let a worker's device fail; returns the responses to requests until another worker has taken its place."""
    ready, responses = len(process.events("ready")), []
    process.failure.write_text(LOST_TEXT)
    limit = time.monotonic() + 60
    while len(process.events("ready")) == ready:
        assert time.monotonic() < limit, process.log.read_text()
        responses.append(process.post())
        time.sleep(0.05)
    return [response for response in responses if response is not None]


@pytest.mark.slow
def test_a_worker_that_lost_its_device_is_not_ready_and_is_replaced(tiny_artifact: Path, tmp_path: Path) -> None:
    with serving(tiny_artifact, tmp_path, 1) as process:
        expected = scores(process.post() or pytest.fail("no answer"))
        with grpc.insecure_channel(f"{HOST}:{process.grpc_port}") as channel:
            statuses = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(statuses).status == health_pb2.HealthCheckResponse.SERVING
            with ThreadPoolExecutor(1) as pool:
                losing = pool.submit(lose_device, process)
                assert next(statuses).status == health_pb2.HealthCheckResponse.NOT_SERVING
                responses = losing.result()
        [event] = process.events("device lost")
        assert event["because"] == "CUDA failure 700: an illegal memory access was encountered"
        assert [response.status_code for response in responses].count(503) > 0
        for response in responses:
            if response.status_code == 200:
                assert scores(response) == pytest.approx(expected, abs=1e-5)
            else:
                assert_error(response, 503, "device_lost")
        assert scores(process.post() or pytest.fail("no answer")) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_in_an_image_other_workers_go_on_while_one_is_replaced(tiny_artifact: Path, tmp_path: Path) -> None:
    """BentoML itself restarts no worker there."""
    with serving(tiny_artifact, tmp_path, 2, BENTOML_CONTAINERIZED="true") as process:
        before = {event["pid"] for event in process.events("ready")}
        responses = lose_device(process)
        assert {response.status_code for response in responses} == {200, 503}
        after = {event["pid"] for event in process.events("ready")}
        [lost] = process.events("device lost")
        assert lost["pid"] in before
        assert len(after - before) == 1
        page = httpx.get(f"{process.url}/metrics", timeout=30).text
        assert metric(page, "tuneport_lost_devices_total") == 1
        assert metric(page, "tuneport_queue_inputs", 'worker="1"') == 0
        assert metric(page, "tuneport_queue_inputs", 'worker="2"') == 0
        assert metric(page, "tuneport_batches_total", 'worker="1"') > 0


@pytest.mark.slow
def test_in_an_image_with_one_worker_the_service_ends(tiny_artifact: Path, tmp_path: Path) -> None:
    """The orchestrator restarts it."""
    with serving(tiny_artifact, tmp_path, 1, BENTOML_CONTAINERIZED="true") as process:
        process.failure.write_text(LOST_TEXT)
        assert_error(process.post() or pytest.fail("no answer"), 503, "device_lost")
        assert process.process.wait(60) != 0
