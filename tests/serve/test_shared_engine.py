"""Workers that share one engine: the same answers as in one process, batches of all, and each failure by itself."""

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
from kit import processes
from kit.engines import until, wait_until
from kit.processes import run_folder
from kit.serving import infer_request
from kit.shared_engine import shared_engine

from tuneport.errors import EngineLost, InputError, Overloaded, PayloadTooLarge, ServiceStopping, TuneportError
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.predictor import Predictor
from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.deployment import check_engines
from tuneport.stages.serve.grpc import open_inference_pb2 as pb
from tuneport.stages.serve.inference import InferenceResult
from tuneport.stages.serve.process import free_port, running, supervisor_command
from tuneport.stages.serve.settings import Settings
from tuneport.stages.serve.shared_engine.keeper import EngineKeeper
from tuneport.stages.serve.shared_engine.memory import MAX_IDLE_SEGMENTS, SEGMENT_ITEMS, Arena
from tuneport.stages.serve.shared_engine.messages import decode_error, encode_error
from tuneport.stages.serve.shared_engine.row_format import RowFormat

TEXTS = ["bank", "the team won the game", "", "Größe 🙂", "bank " * 200]


def assert_equal(results: list[InferenceResult], expected: list[InferenceResult]) -> None:
    """Compare answers, with scores that a batch of other rows may change in the last digit."""
    assert [each.prompt_tokens for each in results] == [each.prompt_tokens for each in expected]
    assert [each.truncated for each in results] == [each.truncated for each in expected]
    for one, other in zip(results, expected, strict=True):
        assert one.prediction["label"] == other.prediction["label"]
        assert one.prediction["score"] == pytest.approx(other.prediction["score"], abs=1e-5)


def test_workers_answer_as_one_process_does(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            expected = await engine.inference.run(TEXTS)
            for _ in range(2):
                front_end = await engine.connect()
                assert_equal(await front_end.run(TEXTS), expected)
                explained = await front_end.run(["the team won"], {"explain": True, "top_k": 2})
                assert explained[0].prediction[0]["explanation"]
                assert front_end.predictor.golden_difference < 1e-3
                assert front_end.predictor.describe() == engine.inference.predictor.describe()

    asyncio.run(run())


def test_batches_are_made_of_the_rows_of_all_workers(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path, max_batch_tokens=4096) as engine:
            first, second = await engine.connect(), await engine.connect()
            stalled, running = await engine.occupy(first)
            answers = [asyncio.create_task(each.run(["bank bank"])) for each in (first, second) * 4]
            await until(lambda: engine.inference.batcher.waiting == 8)
            await until(lambda: first.batcher.waiting == second.batcher.waiting == 8)
            stalled.resume()
            await asyncio.gather(*running, *answers)
            assert [len(batch.slices) for batch in stalled.calls[len(running) :]] == [8]

    asyncio.run(run())


def test_a_row_that_the_engine_refuses_fails_alone(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            first, second = await engine.connect(), await engine.connect()
            runner = engine.runner
            run_batch = runner.run_batch

            def refuse(rows: Any) -> Any:
                if any(len(row) == 9 for row in rows):
                    raise ZeroDivisionError
                return run_batch(rows)

            runner.run_batch = refuse  # type: ignore[method-assign]
            [row] = first.predictor.task.encode(["bank"])[0]
            bad = EncodedInput([row.ids[0]] * 9, [0] * 9, False)
            results = await asyncio.gather(
                first.batcher.submit([bad]), second.batcher.submit([row]), first.batcher.submit([row]),
                return_exceptions=True,
            )  # fmt: skip
            assert type(results[0]).__name__ == "ZeroDivisionError"
            expected = run_batch([row])[0]["logits"]
            for outputs in results[1:]:
                assert not isinstance(outputs, BaseException)
                np.testing.assert_allclose(outputs[0]["logits"], expected, atol=1e-5)
            with pytest.raises(InputError, match="inputs\\[1\\]"):
                await first.run(["bank", 7])

    asyncio.run(run())


def test_what_a_client_does_not_wait_for_is_not_computed(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            front_end = await engine.connect()
            stalled, running = await engine.occupy(front_end)
            late = asyncio.create_task(front_end.run(["bank bank"], deadline=time.monotonic() + 0.05))
            await until(lambda: engine.inference.batcher.waiting == 1)  # without a backlog it is accepted
            left = asyncio.create_task(front_end.run(["bank bank"]))
            await until(lambda: engine.inference.batcher.waiting == 2)
            left.cancel()
            await until(lambda: engine.inference.batcher.waiting == 1)
            await asyncio.sleep(0.06)
            stalled.resume()
            with pytest.raises(TimeoutError):
                await late
            await asyncio.gather(*running)
            assert len(stalled.calls) == len(running)
            assert len(await front_end.run(["bank"])) == 1

    asyncio.run(run())


def test_a_request_that_is_cancelled_before_the_engine_has_begun_with_it_is_forgotten(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    """Both records are in one packet; the memory of its rows is given back."""

    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            connection = (await engine.connect())._client.connection
            row = EncodedInput([2, 5, 3], [0, 0, 0], False)
            for _ in range(50):
                outputs: asyncio.Future[list[RowOutputs]] = asyncio.get_running_loop().create_future()
                connection.cancel(connection.submit([row], None, outputs))
                await asyncio.wait([outputs], timeout=20)
                assert isinstance(outputs.exception(), TimeoutError)
            assert connection._pending == {}
            (session,) = engine.server.sessions
            assert not session.is_busy

    asyncio.run(run())


def test_a_worker_that_ends_loses_only_its_own_requests(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            second = await engine.connect()
            files = memory_files()
            first = await engine.connect()
            stalled, running = await engine.occupy(first)
            lost = asyncio.create_task(first.run(["bank"] * 5))
            kept = asyncio.create_task(second.run(["bank"]))
            await until(lambda: engine.inference.batcher.waiting == 6)
            first.close()
            await until(lambda: engine.inference.batcher.waiting == 1)
            assert len(engine.server.sessions) == 1
            stalled.resume()
            assert len(await kept) == 1
            for task in (*running, lost):
                with pytest.raises(ServiceStopping):
                    await task
            await until(lambda: memory_files() == files + 1)  # its page of the queue's state, which ends with a process

    asyncio.run(run())
    assert memory_files() == 0


def memory_files() -> int:
    """Count this process's descriptors of shared memory."""
    gc.collect()
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(each))
    return sum("memfd:tuneport" in link for link in links)


def test_when_the_engine_ends_requests_get_503_and_the_next_engine_is_found(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            front_end = await engine.connect()
            stalled, [waits, *_] = await engine.occupy(front_end)
            engine.server.close()
            with pytest.raises(EngineLost):
                await waits
            assert not front_end.is_ready
            with pytest.raises(EngineLost):
                front_end.check_capacity()
            with pytest.raises(EngineLost):
                await front_end.batcher.submit([])
            stalled.resume()
            (tmp_path / "socket-1").unlink()
            async with shared_engine(tiny_artifact, tmp_path) as other:
                await until(lambda: front_end.is_ready)
                assert_equal(await front_end.run(TEXTS), await other.inference.run(TEXTS))

    asyncio.run(run())


def test_a_worker_refuses_by_the_queue_that_all_share(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path, max_queue_inputs=3) as engine:
            first, second = await engine.connect(), await engine.connect()
            stalled, tasks = await engine.occupy(first)
            tasks.append(asyncio.create_task(first.run(["bank"] * 3)))
            await until(lambda: second.batcher.waiting == 3)
            with pytest.raises(Overloaded, match="3 inputs are waiting"):
                second.check_capacity()
            row = first.predictor.task.encode(["bank"])[0]
            with pytest.raises(Overloaded, match="3 inputs are waiting"):  # by the engine
                await second.batcher.submit(row)
            with pytest.raises(PayloadTooLarge, match="4 rows in one request"):
                await second.batcher.submit(row * 4)
            stalled.resume()
            await asyncio.gather(*tasks)

    asyncio.run(run())


def test_large_requests_have_memory_of_their_own_that_is_given_back(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            front_end = await engine.connect()
            files = memory_files()
            [row] = front_end.predictor.task.encode(["bank " * 200])[0]
            rows = [row] * (SEGMENT_ITEMS // (2 * len(row)))  # their ids and types alone fill a segment
            outputs = await front_end.batcher.submit(rows)
            assert len(outputs) == len(rows)
            np.testing.assert_allclose(outputs[0]["logits"], outputs[-1]["logits"], atol=1e-5)
            await front_end.run(["bank"])
            await until(lambda: memory_files() == files)

    asyncio.run(run())


def test_segments_are_used_again_when_all_of_their_blocks_are_free() -> None:
    added: list[int] = []
    dropped: list[int] = []

    def add(number: int, items: int, descriptor: int) -> None:
        os.close(descriptor)
        added.append(items)

    arena = Arena(add, dropped.append)
    half = SEGMENT_ITEMS // 2
    blocks = [arena.allocate(half) for _ in range(2 * MAX_IDLE_SEGMENTS + 4)]
    assert added == [SEGMENT_ITEMS] * (MAX_IDLE_SEGMENTS + 2)
    assert [block.offset for block in blocks[:4]] == [0, half, 0, half]
    arena.free(blocks.pop(0))
    assert arena.allocate(half).number == MAX_IDLE_SEGMENTS + 3  # half of the first one is in use
    for block in blocks:
        arena.free(block)
    assert len(dropped) == 2
    assert arena.allocate(1).offset == half
    assert arena.allocate(SEGMENT_ITEMS).offset == 0
    assert len(added) == MAX_IDLE_SEGMENTS + 3


@pytest.mark.parametrize(
    ("per_token", "shapes"),
    [(False, (("logits", (3,)),)), (True, (("start", ()), ("end", ()))), (True, (("logits", (5,)),)), (False, ())],
)
def test_rows_and_outputs_of_every_shape_cross(per_token: bool, shapes: Any) -> None:
    row_format, chance = RowFormat(per_token, shapes), np.random.default_rng(5)
    rows = [EncodedInput([*range(7, 7 + n)], [n % 2] * n, False) for n in (1, 5, 2)]
    axes = [(len(row),) if per_token else () for row in rows]
    outputs = [{name: chance.normal(size=axis + shape).astype(np.float32) for name, shape in shapes} for axis in axes]
    memory = np.zeros(10 + row_format.items(rows) + 10, np.int32)
    row_format.write_rows(memory, 10, rows)
    assert row_format.read_rows(memory, 10, len(rows)) == rows
    row_format.write_outputs(memory.view(np.float32), 10, rows, outputs)
    assert not memory[:10].any()
    assert not memory[-10:].any()
    for found, expected in zip(row_format.read_outputs(memory.view(np.float32), 10, rows), outputs, strict=True):
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


def test_outputs_of_another_shape_are_refused() -> None:
    row_format, row = RowFormat(False, (("logits", (3,)),)), EncodedInput([1], [0], False)
    memory = np.zeros(row_format.items([row]), np.float32)
    with pytest.raises(ValueError, match="shape"):
        row_format.write_outputs(memory, 0, [row], [{"logits": np.zeros(4, np.float32)}])


@pytest.mark.parametrize("error", [ServiceStopping(), EngineLost(), Overloaded("much", "wait", 7.5), TimeoutError()])
def test_an_error_is_the_same_on_both_sides(error: Exception) -> None:
    number, decoded = decode_error(encode_error(9, error))
    assert number == 9
    assert type(decoded) is type(error)
    assert str(decoded) == str(error)
    for name in ("problem", "remedy", "code", "retry_after_s"):
        assert getattr(decoded, name, None) == getattr(error, name, None)


@pytest.mark.parametrize(
    ("settings", "task", "words"),
    [
        ({"engines": 2}, "text-classification", "TUNEPORT_ENGINES is 2, and 1 worker"),
        ({"engines": 1}, "summarization", "cannot share an engine for summarization"),
    ],
)
def test_what_cannot_share_an_engine_is_refused_at_the_start(settings: Any, task: str, words: str) -> None:
    with pytest.raises(TuneportError, match=words):
        check_engines(Settings(**settings), task)


@dataclass(frozen=True)
class Service:
    """`tuneport serve` with two workers and one engine."""

    url: str
    grpc_port: int
    supervisor: psutil.Process

    def processes(self, module: str) -> list[psutil.Process]:
        """List the living processes of a module of the service."""
        found = []
        for each in self.supervisor.children():
            with contextlib.suppress(psutil.Error):  # it has been killed
                if f"tuneport.stages.serve.{module}" in each.cmdline():
                    found.append(each)
        return found

    @property
    def engine(self) -> psutil.Process:
        [engine] = self.processes("shared_engine.process")
        return engine

    def wait(self) -> None:
        """Wait until there are two workers, and those that accept connections are ready."""
        wait_until(lambda: len(self.processes("standalone")) == 2 and self.readiness() == {200})

    def readiness(self) -> set[int]:
        """Return what the readiness check answers on several new connections."""
        try:
            return {httpx.get(f"{self.url}/v2/health/ready", timeout=5).status_code for _ in range(4)}
        except httpx.TransportError:
            return set()

    def predict(self) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json={"inputs": TEXTS}, timeout=30)

    def infer(self) -> list[str]:
        """Return the labels of the texts over gRPC."""
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelInferResponse.FromString,
            )
            response = call(infer_request(TEXTS), timeout=30)
        [labels] = [each for each in response.outputs if each.name == "label"]
        return [label.decode() for label in labels.contents.bytes_contents]


@contextlib.contextmanager
def served(artifact: Path, **settings: str) -> Iterator[Service]:
    port, grpc_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {"TUNEPORT_VARIANT": "fp32", "TUNEPORT_WORKERS": "2", "TUNEPORT_ENGINES": "1"}
    environment |= {"TUNEPORT_GRPC_PORT": str(grpc_port), "TUNEPORT_GRPC_HOST": "127.0.0.1", **settings}
    with running(supervisor_command(artifact, host="127.0.0.1", port=port), url, environment) as pid:
        service = Service(url, grpc_port, psutil.Process(pid))
        service.wait()
        yield service


def samples(page: str, name: str) -> list[float]:
    return [float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{name}{{")]


def test_workers_serve_with_one_engine_and_outlive_it(tiny_artifact: Path) -> None:
    expected = [each["label"] for each in Predictor(tiny_artifact, "fp32").predict(TEXTS)]
    with served(tiny_artifact) as service:
        for _ in range(4):
            assert [each["label"] for each in service.predict().json()["predictions"]] == expected
            assert service.infer() == expected
        page = httpx.get(f"{service.url}/metrics").text
        assert samples(page, "tuneport_inputs_total") == [8 * len(TEXTS)]
        [batches] = samples(page, "tuneport_batches_total")  # one engine reports them, and not each worker
        assert batches >= 8
        assert samples(page, "tuneport_batch_seconds_count") == [batches]
        config = httpx.get(f"{service.url}/v2/models/tiny/config").json()
        assert config["instance_group"][0]["count"] == Predictor(tiny_artifact, "fp32").runner.streams
        workers = service.processes("standalone")
        assert not [each for each in workers if any("onnxruntime" in file.path for file in each.memory_maps())]
        service.supervisor.suspend()  # which would start another one
        service.engine.kill()
        wait_until(lambda: service.readiness() == {503})
        answer = service.predict()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_lost")
        assert answer.headers["retry-after"] == "1"
        service.supervisor.resume()
        wait_until(lambda: service.predict().status_code == 200)
        wait_until(lambda: service.readiness() == {200})
        assert service.processes("standalone") == workers


@pytest.mark.slow
def test_a_worker_that_is_killed_under_load_loses_only_its_own_requests(tiny_artifact: Path) -> None:
    with served(tiny_artifact) as service:
        expected = service.predict().json()
        statuses: list[int] = []
        ends_at = time.monotonic() + 12

        def load() -> None:
            while time.monotonic() < ends_at:
                try:
                    answer = service.predict()
                except httpx.TransportError:
                    statuses.append(0)
                    continue
                statuses.append(answer.status_code)
                assert answer.status_code != 200 or answer.json() == expected

        with ThreadPoolExecutor(8) as pool:
            loads = [pool.submit(load) for _ in range(8)]
            for _ in range(3):
                time.sleep(3)
                service.processes("standalone")[0].kill()
            for each in loads:
                each.result()
        assert set(statuses) <= {0, 200}
        assert statuses.count(0) <= 3 * 8
        assert statuses.count(200) > 8
        service.wait()


@pytest.mark.slow
def test_bentoml_s_workers_share_an_engine_that_is_replaced_and_ends_with_them(tiny_artifact: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = serve_command(SERVICE, host="127.0.0.1", port=port, model=register(tiny_artifact))
    with running(command, url, {"TUNEPORT_VARIANT": "fp32", "TUNEPORT_WORKERS": "2", "TUNEPORT_ENGINES": "1"}) as pid:
        service = Service(url, 0, psutil.Process(pid))
        expected = service.predict().json()
        killed = service.engine
        killed.kill()
        wait_until(lambda: service.processes("shared_engine.process") not in ([], [killed]))
        wait_until(lambda: service.readiness() == {200} and service.predict().status_code == 200)
        assert service.predict().json() == expected
        engine = service.engine
    _, alive = psutil.wait_procs([engine], 20)
    assert not alive


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_gone", "words"), [(False, "was replaced while it was served"), (True, "cannot be read any more")]
)
def test_an_engine_that_cannot_start_again_ends_the_service_with_the_reason(
    artifact: Path, tmp_path: Path, is_gone: bool, words: str
) -> None:
    log = tmp_path / "log"
    with processes.served(artifact, log, TUNEPORT_WORKERS="2", TUNEPORT_ENGINES="1") as (tree, _):
        manifest = artifact / "manifest.json"
        if is_gone:
            manifest.rename(tmp_path / "elsewhere")
        else:
            manifest.write_text(manifest.read_text() + "\n")  # as valid as before, and another one
        [engine] = [each for each in tree if "tuneport.stages.serve.shared_engine.process" in each.cmdline()]
        engine.kill()
        assert tree[0].wait(60) == 1
    assert f"error: {artifact} {words}" in log.read_text()


def test_a_folder_whose_path_is_too_long_for_a_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TuneportError, match=r"cannot listen.*TMPDIR"):
        EngineKeeper(tmp_path, 1, tmp_path / ("x" * 120), "")


@pytest.mark.slow
@pytest.mark.parametrize("stop", [psutil.Process.kill, psutil.Process.terminate])
def test_nothing_is_left_of_a_service(tiny_artifact: Path, stop: Any) -> None:
    memory = set(Path("/dev/shm").glob("*"))
    with served(tiny_artifact) as service:
        processes = [service.supervisor, *service.supervisor.children(recursive=True)]
        folder = run_folder(service.processes("standalone")[0])
        assert folder.is_dir()
        stop(service.supervisor)
        _, alive = psutil.wait_procs(processes, 20)
        assert not alive
    assert not folder.exists()
    assert set(Path("/dev/shm").glob("*")) <= memory
