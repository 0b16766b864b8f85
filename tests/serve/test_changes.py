"""Changes of models in a service of several workers: all switch, or none does; whoever fails, ends or starts meanwhile.

Two hosts in this process are two workers, with a socket between them as between processes; the tests at the end have
processes.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from kit.engines import until, wait_until
from kit.versions import Repository, change_models, version_of
from prometheus_client.parser import text_string_to_metric_families

from tuneport.errors import GateError, ModelNotLoaded, ServiceStopping
from tuneport.stages.serve import logs
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models import peers
from tuneport.stages.serve.models.description import describe_index
from tuneport.stages.serve.models.host import ModelHost
from tuneport.stages.serve.models.peers import Decision, Peers, Proposal, Reply, address_of
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.models.shared_state import SharedState
from tuneport.stages.serve.models.state import LoadOptions, ServingState, VersionRef
from tuneport.stages.serve.process import free_port, running, supervisor_command
from tuneport.stages.serve.settings import Settings
from tuneport.stages.serve.supervisor import WORKER


class Worker:
    """What a worker process has of the models; it can be made to fail, or to take its time, when it opens a version."""

    def __init__(self, number: int, folder: Path, artifact: Path, settings: Settings) -> None:
        self.shared = SharedState(folder)
        self.opened = 0
        self.proven: list[Inference] = []
        self.failure: Exception | None = None
        self.may_open = threading.Event()
        self.may_open.set()
        self._settings = settings
        state = self.shared.read() or ServingState.of(artifact)
        self.models = ModelRegistry(self._admission(state.models[0].serving.folder))
        self.host = ModelHost(self.models, settings, self._open, state, number=number, shared=self.shared)
        self.host.catch_up()

    def _admission(self, folder: Path) -> AdmissionController:
        return AdmissionController(Inference.open(folder, self._settings), self._settings)

    def _open(self, folder: Path) -> AdmissionController:
        self.opened += 1
        assert self.may_open.wait(30)
        if self.failure:
            raise self.failure
        admission = self._admission(folder)
        self.proven.append(admission.inference)
        return admission

    @property
    def serving(self) -> str:
        return self.models.default.serving.manifest.version

    async def index(self) -> list[dict[str, str]]:
        return await describe_index(self.models)


@pytest.fixture
def settings(repository: Repository) -> Settings:
    return Settings(variant="fp32", workers=2, admin_keys="admin", model_repository=repository.folder)  # type: ignore[arg-type]


@pytest.fixture
def run(tiny_artifact: Path, settings: Settings, tmp_path: Path) -> Callable[..., None]:
    """Run a conversation of two workers, or more."""

    def run(work: Callable[..., Awaitable[None]], **changes: Any) -> None:
        chosen = settings.model_copy(update=changes)

        async def converse() -> None:
            workers = [Worker(number, tmp_path, tiny_artifact, chosen) for number in (1, 2)]
            try:
                for each in workers:
                    await each.host.join()
                await asyncio.wait_for(work(*workers), 60)
            finally:
                for each in workers:
                    each.may_open.set()
                    each.host.leave()
                await asyncio.sleep(0)
                for each in workers:
                    each.host.close()
                logs.write_pending()

        asyncio.run(converse())

    return run


def test_a_change_reaches_every_worker(run: Callable[..., None], repository: Repository) -> None:
    v0, v1 = repository.versions["v0"], repository.versions["v1"]

    async def work(first: Worker, second: Worker) -> None:
        await first.host.load("tiny", LoadOptions(version=v1, traffic="shadow", shadow_share=0.5))
        assert first.models.default.shadow_share == second.models.default.shadow_share == 0.5
        assert await first.index() == await second.index()
        assert second.models.default.serving.observe is not None
        await second.host.load("tiny", LoadOptions(version=v1, traffic=0.25))
        assert first.models.default.weight == second.models.default.weight == 0.25
        assert first.models.default.serving.observe is second.models.default.shadow is None
        await first.host.load("tiny", LoadOptions(version=v1))
        assert first.serving == second.serving == v1
        await second.host.load("tiny", LoadOptions(version=v0))
        assert first.serving == second.serving == v0
        await second.host.load("other", LoadOptions())
        await first.host.unload("other", None)
        assert [model.name for model in first.models] == [model.name for model in second.models] == ["tiny"]
        assert await first.index() == await second.index()
        assert (first.opened, second.opened) == (3, 3)  # v1 once for three changes, v0 again, and the other model

    run(work)


@pytest.mark.parametrize("failing", [1, 2])
def test_if_one_worker_fails_none_switches_and_all_know_why(
    failing: int, run: Callable[..., None], repository: Repository
) -> None:
    v0, v1 = repository.versions["v0"], repository.versions["v1"]

    async def work(*workers: Worker) -> None:
        workers[failing - 1].failure = GateError("differs on the golden case 3", "export it for this host")
        with pytest.raises(ModelNotLoaded, match=rf"{v1} was not loaded: worker {failing}: .* golden case 3"):
            await workers[0].host.load("tiny", LoadOptions(version=v1))
        await until(lambda: all(each.models.failures for each in workers))
        for each in workers:
            assert [version.manifest.version for version in each.models.versions] == [v0]
        indexes = [await each.index() for each in workers]
        assert indexes[0] == indexes[1]
        [reason] = [each["reason"] for each in indexes[0] if each["version"] == v1]
        assert f"worker {failing}: differs on the golden case 3" in reason
        for each in workers:
            each.failure = None
        await workers[1].host.load("tiny", LoadOptions(version=v1))
        assert {each.serving for each in workers} == {v1}
        assert workers[0].models.failures == workers[1].models.failures == {}

    run(work)


def test_an_error_that_nobody_expected_is_in_the_log_with_its_place(
    run: Callable[..., None], repository: Repository, capfd: pytest.CaptureFixture[str]
) -> None:
    async def work(first: Worker, second: Worker) -> None:
        second.failure = RuntimeError("broken")
        with pytest.raises(ModelNotLoaded, match="worker 2: RuntimeError: broken"):
            await first.host.load("tiny", LoadOptions(version=repository.versions["v1"]))

    logs.set_up()
    run(work)
    [line] = [line for line in capfd.readouterr().err.splitlines() if '"event":"change failed"' in line]
    assert json.loads(line)["exception"] == "RuntimeError"
    assert any(each.endswith(" _open") for each in json.loads(line)["at"])


def test_a_worker_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    async def connect() -> None:
        async with Peers.connected(tmp_path / ("x" * 100), 1, 2):  # an address that no socket can have
            pass

    with pytest.raises(ModelNotLoaded, match="worker 2 cannot be reached"):
        asyncio.run(connect())


def test_another_change_is_refused_while_one_is_under_way(run: Callable[..., None], repository: Repository) -> None:
    v1 = repository.versions["v1"]

    async def work(first: Worker, second: Worker) -> None:
        second.may_open.clear()
        change = asyncio.ensure_future(first.host.load("tiny", LoadOptions(version=v1)))
        await until(lambda: second.opened)
        for each in (first, second):
            with pytest.raises(ModelNotLoaded, match="another change") as caught:
                await each.host.unload("tiny", None)
            assert caught.value.code == "change_under_way"
            [loading] = [entry for entry in await each.index() if entry["state"] == "LOADING"]
            assert loading["version"] == v1
        second.may_open.set()
        await change
        assert first.serving == second.serving == v1
        assert "LOADING" not in {entry["state"] for entry in await second.index()}

    run(work)


def test_a_worker_that_has_not_switched_yet_undoes_nothing(run: Callable[..., None], repository: Repository) -> None:
    async def work(first: Worker, second: Worker) -> None:
        ref = VersionRef.of(repository.folder / "tiny" / "v1")
        decided = ServingState.of(repository.folder / "tiny" / "v0").after_load("tiny", ref, LoadOptions())
        first.shared.write(decided)
        for change in (
            second.host.load("tiny", LoadOptions(version=repository.versions["damaged"])),
            second.host.unload("other", None),
        ):
            with pytest.raises(ModelNotLoaded) as caught:
                await change
            assert caught.value.code == "change_under_way"
        assert first.shared.read() == decided
        assert second.opened == 0

    run(work)


def test_a_worker_that_takes_too_long_ends_the_change(run: Callable[..., None], repository: Repository) -> None:
    v0, v1 = repository.versions["v0"], repository.versions["v1"]

    async def work(first: Worker, second: Worker) -> None:
        second.may_open.clear()
        with pytest.raises(ModelNotLoaded, match=r"within 0\.3 s by worker 2;"):
            await first.host.load("tiny", LoadOptions(version=v1))
        second.may_open.set()
        await until(lambda: second.models.failures)
        await until(lambda: first.proven and not hasattr(first.proven[0], "predictor"))  # its memory is given back
        assert first.serving == second.serving == v0
        await second.host.load("tiny", LoadOptions(version=v1, traffic="shadow"))
        assert first.models.default.shadow

    run(work, load_timeout_s=0.3)


def test_a_change_that_is_decided_succeeds_though_a_worker_does_not_confirm(
    run: Callable[..., None], repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "CONFIRM_TIMEOUT_S", 0.1)
    v1 = repository.versions["v1"]
    decisions: list[bytes] = []

    async def opens_and_hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        peers.send(writer, Reply())
        decisions.append(await reader.readline())
        await reader.read()  # until the other side closes
        writer.close()

    async def work(first: Worker, second: Worker) -> None:
        second.host.leave()
        address = address_of(tmp_path, 2)
        address.unlink(missing_ok=True)
        async with await asyncio.start_unix_server(opens_and_hangs, address):
            loaded = await first.host.load("tiny", LoadOptions(version=v1))
        assert loaded["version"] == first.serving == v1
        assert [Decision.model_validate_json(line).commit for line in decisions] == [True]

    run(work)


@pytest.mark.parametrize("leaving", [0, 1])
def test_a_worker_that_stops_ends_the_change(leaving: int, run: Callable[..., None], repository: Repository) -> None:
    v0, v1 = repository.versions["v0"], repository.versions["v1"]

    async def work(*workers: Worker) -> None:
        workers[1].may_open.clear()
        change = asyncio.ensure_future(workers[0].host.load("tiny", LoadOptions(version=v1)))
        await until(lambda: workers[1].opened)
        workers[leaving].host.leave()
        with pytest.raises(ModelNotLoaded if leaving else ServiceStopping) as caught:
            await change
        assert ("worker 2 ended" if leaving else "stopping") in caught.value.problem
        workers[1].may_open.set()
        assert {each.serving for each in workers} == {v0}

    run(work)


@pytest.mark.parametrize("is_decided", [True, False])
def test_the_state_that_was_written_decides_if_the_worker_that_changes_it_ends(
    is_decided: bool, run: Callable[..., None], repository: Repository, tmp_path: Path
) -> None:
    v0, v1 = repository.versions["v0"], repository.versions["v1"]

    async def work(first: Worker, second: Worker) -> None:
        ref = VersionRef.of(repository.folder / "tiny" / "v1")
        target = ServingState.of(repository.folder / "tiny" / "v0").after_load("tiny", ref, LoadOptions())
        reader, writer = await asyncio.open_unix_connection(address_of(tmp_path, 2))
        writer.write(Proposal(target=target, version=("tiny", v1)).model_dump_json().encode() + b"\n")
        assert Reply.model_validate_json(await reader.readline()).problem is None
        if is_decided:
            first.shared.write(target)
        writer.close()
        await until(lambda: not second.models.loading)
        assert second.serving == (v1 if is_decided else v0)

    run(work)


def test_a_proposal_whose_change_has_failed_is_not_opened(
    run: Callable[..., None], repository: Repository, tmp_path: Path
) -> None:
    v1 = repository.versions["v1"]

    async def work(first: Worker, second: Worker) -> None:
        ref = VersionRef.of(repository.folder / "tiny" / "v1")
        target = ServingState.of(repository.folder / "tiny" / "v0").after_load("tiny", ref, LoadOptions())
        second.may_open.clear()
        connections = []
        for _ in range(2):  # the second one waits for the first one
            reader, writer = await asyncio.open_unix_connection(address_of(tmp_path, 2))
            peers.send(writer, Proposal(target=target, version=("tiny", v1)))
            connections.append((reader, writer))
            await until(lambda: second.opened)
        for _, writer in reversed(connections):
            peers.send(writer, Decision(commit=False, reason="the disk is full"))
            for _ in range(50):  # turns of the event loop, in which the decision arrives
                await asyncio.sleep(0)
        for reader, writer in connections:
            assert await reader.read() == b""  # although what was begun for the first one has not ended
            writer.close()
        assert second.models.failures == {("tiny", v1): "the disk is full"}
        second.may_open.set()
        await first.host.load("tiny", LoadOptions(version=v1))
        assert second.serving == v1
        assert second.opened == 2  # for the first proposal, and for this change

    run(work)


def test_a_worker_that_starts_meanwhile_comes_up_with_the_new_state(
    run: Callable[..., None], repository: Repository, tiny_artifact: Path, settings: Settings, tmp_path: Path
) -> None:
    v1 = repository.versions["v1"]

    async def work(first: Worker, second: Worker) -> None:
        second.host.leave()
        late = Worker(2, tmp_path, tiny_artifact, settings)  # has the state of before
        first.may_open.clear()
        change = asyncio.ensure_future(first.host.load("tiny", LoadOptions(version=v1, traffic=0.5)))
        await until(lambda: first.opened)
        joining = asyncio.ensure_future(late.host.join())
        await asyncio.sleep(0.2)  # in which it must not join
        assert not joining.done()
        first.may_open.set()
        await change
        await joining
        assert late.models.default.candidate
        assert late.models.default.weight == 0.5
        await late.host.load("tiny", LoadOptions(version=v1))
        assert first.serving == late.serving == v1
        late.host.leave()
        late.host.close()

    run(work)


def test_a_line_that_is_no_proposal_changes_nothing(run: Callable[..., None], tmp_path: Path) -> None:
    async def work(first: Worker, second: Worker) -> None:
        decision = Decision(commit=True).model_dump_json().encode()
        for line in (b"", b"{}", b"{}\n", b"\xff\n", decision + b"\n"):
            reader, writer = await asyncio.open_unix_connection(address_of(tmp_path, 2))
            writer.write(line)
            writer.close()
            assert await reader.read() == b""
        await first.host.load("other", LoadOptions())
        assert second.models.get("other")

    run(work)


@contextmanager
def two_processes(artifact: Path, repository: Repository) -> Iterator[tuple[str, psutil.Process]]:
    """Run a service of two workers; yields its address and its supervisor."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "TUNEPORT_VARIANT": "fp32",
        "TUNEPORT_WORKERS": "2",
        "TUNEPORT_ADMIN_KEYS": "admin",
        "TUNEPORT_MODEL_REPOSITORY": str(repository.folder),
    }
    with running(supervisor_command(artifact, host="127.0.0.1", port=port), url, environment) as pid:
        supervisor = psutil.Process(pid)
        wait_until(lambda: len(shares(url)) == 2)
        yield url, supervisor


def workers_of(supervisor: psutil.Process) -> list[psutil.Process]:
    alive = [each for each in supervisor.children() if each.status() != psutil.STATUS_ZOMBIE]
    return [each for each in alive if WORKER in each.cmdline()]


def is_replaced(supervisor: psutil.Process, worker: psutil.Process) -> bool:
    workers = workers_of(supervisor)
    return worker not in workers and len(workers) == 2


def are_ready(url: str, supervisor: psutil.Process) -> bool:
    """Tell whether the metrics have all workers, which they have as soon as these are ready."""
    page = httpx.get(f"{url}/metrics", timeout=30).text
    return all(f'pid="{worker.pid}"' in page for worker in workers_of(supervisor))


def shares(url: str) -> dict[tuple[str, str], float]:
    """Read which share of the requests each version answers in each worker, from one worker's metrics."""
    found = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=30).text):
        if family.name == "tuneport_traffic_share":
            for sample in family.samples:
                found[sample.labels["worker"], sample.labels["model_version"]] = sample.value
    return found


def answering(url: str, requests: int = 12) -> set[str]:
    """Return the versions that answer requests of new connections, which go to both workers."""
    return {version_of(httpx.post(f"{url}/predict", json={"inputs": "bank"}, timeout=30)) for _ in range(requests)}


class Load:
    """Clients in threads that send requests until the end of the block, over connections that are kept and new ones."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.statuses: list[int] = []
        self._url = url
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        while not self._is_over.is_set():
            with httpx.Client() as client:
                for _ in range(10):
                    body = {"inputs": ["bank", "won", "fell"]}
                    self.statuses.append(client.post(f"{self._url}/predict", json=body, timeout=30).status_code)


def test_two_processes_switch_under_load_and_a_new_one_has_their_state(
    tiny_artifact: Path, repository: Repository
) -> None:
    v0, v1 = repository.versions["v0"], repository.versions["v1"]
    with two_processes(tiny_artifact, repository) as (url, supervisor):
        with Load(url) as load:
            assert change_models(url, "load", version=v1).json()["version"] == v1
            assert answering(url) == {v1}
        assert len(load.statuses) > 4
        assert set(load.statuses) == {200}
        assert {key: share for key, share in shares(url).items() if share} == {("1", v1): 1.0, ("2", v1): 1.0}
        assert change_models(url, "load", version=v0, traffic=0.25).status_code == 200
        killed = workers_of(supervisor)[0]
        killed.kill()
        killed.wait(10)
        expected = {("1", v1): 0.75, ("2", v1): 0.75, ("1", v0): 0.25, ("2", v0): 0.25}
        wait_until(lambda: is_replaced(supervisor, killed) and are_ready(url, supervisor))
        assert shares(url) == expected
        assert change_until_free(url, "load", version=v0, traffic=0.5).status_code == 200  # the new one takes part
        assert shares(url) == {key: 0.5 for key in expected}


def change_until_free(url: str, action: str, **options: Any) -> httpx.Response:
    """Change the models as soon as no worker is starting."""
    responses: list[httpx.Response] = []

    def is_done() -> bool:
        responses.append(change_models(url, action, **options))
        return "another change" not in responses[-1].text

    wait_until(is_done)
    return responses[-1]


@pytest.mark.slow
def test_a_process_that_is_killed_between_the_phases_ends_the_change_and_so_does_the_end_of_the_service(
    tiny_artifact: Path, repository: Repository
) -> None:
    v0, v1 = repository.versions["v0"], repository.versions["v1"]
    with two_processes(tiny_artifact, repository) as (url, supervisor):
        stopped, change, answers = change_that_waits(url, supervisor, v1)
        stopped.kill()
        change.join(20)
        assert answers[0].status_code == 409
        assert "ended during the change" in answers[0].json()["error"]
        wait_until(lambda: is_replaced(supervisor, stopped))
        wait_until(lambda: len(shares(url)) == 2)
        assert answering(url) == {v0}
        stopped, change, answers = change_that_waits(url, supervisor, v1)
        supervisor.terminate()
        change.join(20)
        assert answers[0].status_code == 503
        stopped.resume()
        wait_until(lambda: not supervisor.is_running() or supervisor.status() == psutil.STATUS_ZOMBIE)


def change_that_waits(
    url: str, supervisor: psutil.Process, version: str
) -> tuple[psutil.Process, threading.Thread, list[httpx.Response]]:
    """Suspend a worker, and begin to load a version; returns the worker, the thread that waits, and its answer."""
    stopped = workers_of(supervisor)[0]
    stopped.suspend()
    answers: list[httpx.Response] = []
    change = threading.Thread(target=lambda: answers.append(change_until_free(url, "load", version=version)))
    change.start()
    wait_until(lambda: "LOADING" in httpx.get(f"{url}/v2/repository/index", timeout=30).text)
    return stopped, change, answers


@pytest.mark.slow
def test_many_changes_of_two_processes_under_load_lose_no_request(tiny_artifact: Path, repository: Repository) -> None:
    v0, v1 = repository.versions["v0"], repository.versions["v1"]
    with two_processes(tiny_artifact, repository) as (url, _), Load(url) as load:
        for number in range(6):
            version, other = (v1, v0) if number % 2 == 0 else (v0, v1)
            for traffic in ("shadow", 0.1, 0.5, "switch"):
                assert change_models(url, "load", version=version, traffic=traffic).status_code == 200
            assert change_models(url, "load", version=repository.versions["damaged"]).status_code == 409
            assert answering(url) == {version} != {other}
    assert len(load.statuses) > 100
    assert set(load.statuses) == {200}
