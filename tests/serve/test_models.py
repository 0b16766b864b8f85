"""Several versions of a model in one service: loaded and switched to under load, as a shadow, by weight."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from kit.engines import StalledEngine, fail_with, wait_until
from kit.serving import LocalService, infer_request, local_service
from kit.versions import ADMIN, Repository, change_models, version_of
from prometheus_client.parser import text_string_to_metric_families

from tuneport.errors import ModelNotLoaded, TuneportError
from tuneport.stages.serve import logs
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.deployment import check_several
from tuneport.stages.serve.grpc import open_inference_pb2 as pb
from tuneport.stages.serve.grpc.server import GrpcServer
from tuneport.stages.serve.grpc.servicer import SERVICE
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models.host import ModelHost
from tuneport.stages.serve.models.registry import ModelRegistry, place_of
from tuneport.stages.serve.models.state import LoadOptions
from tuneport.stages.serve.process import free_port, running, supervisor_command
from tuneport.stages.serve.settings import Settings
from tuneport.stages.serve.supervisor import WORKER


@pytest.fixture
def service(tiny_artifact: Path, repository: Repository) -> Iterator[LocalService]:
    with local_service(tiny_artifact, admin_keys="admin", model_repository=repository.folder) as service:
        yield service


def change(service: LocalService, action: str, headers: dict[str, str] = ADMIN, **options: Any) -> httpx.Response:
    return change_models(service.url, action, headers, **options)


def test_a_version_is_switched_to_under_load_and_the_old_one_is_closed(
    service: LocalService, repository: Repository
) -> None:
    first = service.admission
    statuses: list[int] = []
    is_over = threading.Event()

    def load() -> None:
        with httpx.Client() as client:
            while not is_over.is_set():
                body = {"inputs": ["bank", "won", "fell"]}
                statuses.append(client.post(f"{service.url}/predict", json=body, timeout=30).status_code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert change(service, "load", version=repository.versions["v1"]).json()["version"] == repository.versions["v1"]
    assert version_of(service.post()) == repository.versions["v1"]
    wait_until(lambda: not hasattr(first.inference, "predictor"))
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(statuses) > 4
    assert set(statuses) == {200}
    gauges = [line for line in service.get("/metrics").text.splitlines() if line.startswith("tuneport_queue_inputs{")]
    assert len(gauges) == 1
    assert repository.versions["v1"] in gauges[0]


def test_a_request_is_answered_by_the_version_that_it_began_with(
    service: LocalService, repository: Repository, manifest: Any
) -> None:
    engine = StalledEngine.of(service.runner, stalled=True)
    answers: list[httpx.Response] = []
    request = threading.Thread(target=lambda: answers.append(service.post()))
    request.start()
    wait_until(lambda: engine.calls)
    assert change(service, "load", version=repository.versions["v1"]).status_code == 200
    assert version_of(service.post()) == repository.versions["v1"]
    time.sleep(0.3)  # in which a version that did not wait for its requests would be closed
    assert hasattr(service.inference, "predictor")
    engine.resume()
    request.join()
    assert version_of(answers[0]) == manifest.version
    wait_until(lambda: not hasattr(service.inference, "predictor"))


@pytest.mark.parametrize(
    ("version", "words"),
    [("damaged", "SHA-256"), ("wrong", "golden"), ("relabelled", "other labels"), ("v9", "the model repository has no"),
     ("../v1", "the model repository has no")],
)  # fmt: skip
def test_a_version_that_may_not_serve_leaves_the_old_one(
    service: LocalService, repository: Repository, manifest: Any, version: str, words: str
) -> None:
    response = change(service, "load", version=repository.versions.get(version, version))
    assert response.status_code == 409
    assert words in response.json()["error"]
    assert version_of(service.post()) == manifest.version


def test_only_an_administrator_loads_and_unloads(service: LocalService, tiny_artifact: Path) -> None:
    for action in ("load", "unload"):
        assert change(service, action, {}).status_code == 401
        assert change(service, action, {"x-api-key": "other"}).status_code == 403
    with local_service(tiny_artifact) as without:
        response = change(without, "load")
        assert response.status_code == 403
        assert "TUNEPORT_ADMIN_KEYS" in response.text


def test_a_parameter_that_is_not_known_changes_nothing(service: LocalService) -> None:
    assert change(service, "load", name="other").status_code == 200
    for parameters in ({"verison": "1"}, {"version": 1}, {"unload_dependents": "perhaps"}):
        response = change(service, "unload", name="other", **parameters)
        assert response.status_code == 422
        assert response.headers["error-code"] == "wrong_input"
        assert "known: version, unload_dependents" in response.json()["error"]
    assert service.models.get("other")
    assert change(service, "unload", name="other", unload_dependents=False).status_code == 200  # as tritonclient does
    assert service.models.get("other") is None


def test_the_index_says_what_is_loaded_and_what_is_not(
    service: LocalService, repository: Repository, manifest: Any
) -> None:
    change(service, "load", version=repository.versions["damaged"])
    change(service, "load", version=repository.versions["v1"], traffic="shadow")
    index = service.get("/v2/repository/index").json()
    listed = {each["version"]: each for each in index if each["name"] == "tiny"}
    assert listed[manifest.version]["state"] == listed[repository.versions["v1"]]["state"] == "READY"
    assert listed[repository.versions["v1"]]["reason"] == f"shadow of {manifest.version}"
    assert listed[repository.versions["damaged"]]["state"] == "UNAVAILABLE"
    assert "SHA-256" in listed[repository.versions["damaged"]]["reason"]
    assert listed[repository.versions["wrong"]]["reason"] == "not loaded"
    ready = [each for each in index if each["state"] == "READY"]
    url = f"{service.url}/v2/repository/index"
    for content, expected in (({"ready": True}, ready), ({"ready": False}, index), ({}, index)):
        assert httpx.post(url, json=content).json() == expected
    for wrong in (7, {"ready": "yes"}):
        assert httpx.post(url, json=wrong).status_code == 422


def test_a_shadow_is_compared_and_never_answers(
    service: LocalService, repository: Repository, manifest: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert change(service, "load", version=repository.versions["v1"], traffic="shadow").status_code == 200
    shadow = next(iter(service.models)).shadow
    assert shadow

    def is_counted(result: str, times: int = 1) -> bool:
        return counted(service, "shadow_inputs_total", result=result) == 3 * times

    assert version_of(service.post(["bank", "won", "fell"])) == manifest.version
    wait_until(lambda: is_counted("agree"))
    task = shadow.inference.predictor.task
    task.is_equivalent = lambda *_: False  # type: ignore[method-assign]
    assert version_of(service.post(["bank", "won", "fell"])) == manifest.version
    wait_until(lambda: is_counted("disagree"))
    fail_with(shadow.inference.predictor.runner, RuntimeError("broken"))
    assert version_of(service.post(["bank", "won", "fell"])) == manifest.version
    wait_until(lambda: is_counted("failed"))
    assert version_of(service.post(["bank", "won", "fell"])) == manifest.version
    wait_until(lambda: is_counted("failed", times=2))
    [logged] = [each for each in caplog.records if each.message == "shadow failed"]
    assert (logged.levelname, logged.exc_info and logged.exc_info[0]) == ("WARNING", RuntimeError)
    assert change(service, "unload", version=repository.versions["v1"]).status_code == 200
    assert service.admission.observe is None


def test_a_metric_that_fails_takes_no_copies_from_a_shadow(
    service: LocalService, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    assert change(service, "load", version=repository.versions["v1"], traffic="shadow").status_code == 200
    monkeypatch.setattr(service.admission.metrics.answers, "predictions", fail)
    assert service.post(["bank", "won", "fell"]).status_code == 200
    wait_until(lambda: counted(service, "shadow_inputs_total", result="agree") == 3)


def test_requests_are_divided_by_weight_and_by_key(
    service: LocalService, repository: Repository, manifest: Any
) -> None:
    """Of 300 requests at 0.3 fewer than 50 or more than 130 would be five standard deviations away."""
    assert change(service, "load", version=repository.versions["v1"], traffic=0.3).status_code == 200
    with httpx.Client(base_url=service.url, timeout=30) as client:

        def answered(key: str | None = None) -> str:
            headers = {} if key is None else {"x-tuneport-key": key}
            return version_of(client.post("/predict", json={"inputs": "bank"}, headers=headers))

        counts = Counter(answered() for _ in range(300))
        assert 50 < counts[repository.versions["v1"]] < 130
        for key in ("a", "b", "c", "d", "e"):
            expected = repository.versions["v1"] if place_of("tiny", key) < 0.3 else manifest.version
            assert {answered(key) for _ in range(3)} == {expected}
        path = f"/models/tiny/versions/{manifest.version}/predict"
        assert version_of(client.post(path, json={"inputs": "bank"})) == manifest.version
        assert client.post("/models/other/predict", json={"inputs": "bank"}).status_code == 404
    opened = next(iter(service.models)).candidate
    assert change(service, "load", version=repository.versions["v1"]).status_code == 200  # promoted, not opened again
    assert service.models.default.serving is opened


def counted(service: LocalService, name: str, **labels: str) -> float:
    """Sum the samples of a metric that have these labels."""
    families = text_string_to_metric_families(service.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == f"tuneport_{name}"]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_what_each_version_answers_is_counted(service: LocalService, repository: Repository, manifest: Any) -> None:
    v1 = repository.versions["v1"]
    assert change(service, "load", version=v1, traffic=0.5).status_code == 200
    with httpx.Client(base_url=service.url, timeout=30) as client:
        answered = Counter(version_of(client.post("/predict", json={"inputs": "bank"})) for _ in range(40))
    assert answered.total() == 40

    def counts(name: str, **labels: str) -> Counter[str]:
        versions = (manifest.version, v1)
        return Counter({each: int(counted(service, name, model_version=each, **labels)) for each in versions})

    wait_until(lambda: counts("inputs_total") == answered)
    wait_until(lambda: counts("requests_total", operation="predict", status="200") == answered)
    for version in (manifest.version, v1):
        assert counted(service, "traffic_share", model_version=version) == 0.5


def test_a_shadow_gets_copies_of_its_share(service: LocalService, repository: Repository) -> None:
    """Of 200 requests at 0.3 fewer than 25 or more than 95 would be five standard deviations away."""
    v1 = repository.versions["v1"]
    assert change(service, "load", version=v1, traffic="shadow", shadow_share=0.3).status_code == 200
    with httpx.Client(base_url=service.url, timeout=30) as client:
        for _ in range(200):
            client.post("/predict", json={"inputs": "bank"})
    assert 25 < counted(service, "shadow_inputs_total") < 95
    assert change(service, "load", version=v1, traffic="shadow", shadow_share=0.0).status_code == 422


def test_copies_that_a_shadow_has_no_room_for_are_dropped(service: LocalService, repository: Repository) -> None:
    assert change(service, "load", version=repository.versions["v1"], traffic="shadow").status_code == 200
    shadow = next(iter(service.models)).shadow
    assert shadow
    engine = StalledEngine.of(shadow.inference.predictor.runner, stalled=True)
    for _ in range(3):  # of which two have room: 256 inputs may wait
        assert service.post(["bank"] * 100).status_code == 200
    assert counted(service, "shadow_inputs_total", result="dropped") == 100
    engine.resume()
    wait_until(lambda: counted(service, "shadow_inputs_total", result="agree") == 200)
    assert counted(service, "shadow_inputs_total") == 300


def test_the_log_names_the_model_and_the_version_that_answered(
    tiny_artifact: Path, repository: Repository, manifest: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"admin_keys": "admin", "model_repository": repository.folder, "log_requests": True}
    with local_service(tiny_artifact, **options) as logged:
        logged.post()
        change(logged, "load", version=repository.versions["v1"])
        logged.post()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"operation":"predict"' in line]
    named = [(line["model"], line["version"]) for line in lines]
    assert named == [("tiny", manifest.version), ("tiny", repository.versions["v1"])]


def test_another_model_is_loaded_and_unloaded_by_its_name(service: LocalService, manifest: Any) -> None:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        assert client.post("/models/other/predict", json={"inputs": "bank"}).status_code == 404
        assert change(service, "load", name="other").json()["name"] == "other"
        answered = client.post("/models/other/predict", json={"inputs": "bank"})
        assert answered.json()["model"]["name"] == "other"
        assert client.get("/v2/models/other/config").json()["name"] == "other"
        [statistics] = client.get("/v2/models/other/stats").json()["model_stats"]
        assert statistics["inference_count"] == 1
        assert {each["name"] for each in client.get("/v2/models/stats").json()["model_stats"]} == {"tiny", "other"}
        assert service.post().json()["model"]["name"] == "tiny"
        assert change(service, "unload", name="other").status_code == 200
        assert client.post("/models/other/predict", json={"inputs": "bank"}).status_code == 404
        response = change(service, "unload")
        assert response.status_code == 409
        assert "stop the service" in response.json()["error"]
    assert version_of(service.post()) == manifest.version


def test_changes_are_refused_where_engines_are_shared(tiny_artifact: Path, repository: Repository) -> None:
    settings = Settings(model_repository=repository.folder, variant="fp32", workers=2, engines=1)
    inference = Inference.open(tiny_artifact, Settings(variant="fp32"))

    def unexpected(_: Path) -> AdmissionController:
        raise AssertionError

    host = ModelHost(ModelRegistry(AdmissionController(inference, Settings())), settings, unexpected)

    async def refused() -> None:
        for work in (host.load("tiny", LoadOptions()), host.unload("tiny", None)):
            with pytest.raises(ModelNotLoaded, match="TUNEPORT_ENGINES=0"):
                await work

    try:
        asyncio.run(refused())
    finally:
        host.close()


def test_a_version_is_switched_to_under_load_over_grpc(tiny_artifact: Path, repository: Repository) -> None:
    """The calls that run meanwhile are answered, and Triton's calls know all versions and models."""
    settings = Settings(
        variant="fp32",
        grpc_port=free_port(),
        grpc_host="127.0.0.1",
        model_repository=repository.folder,
        admin_keys="admin",  # type: ignore[arg-type]
    )

    def opened(folder: Path) -> AdmissionController:
        return AdmissionController(Inference.open(folder, settings), settings, worker=admission.worker)

    admission = AdmissionController(Inference.open(tiny_artifact, settings), settings)
    models = ModelRegistry(admission)
    host = ModelHost(models, settings, opened)

    async def converse(channel: grpc.aio.Channel) -> None:
        def call(name: str, request: Any, metadata: dict[str, str] | None = None) -> Any:
            response_type = getattr(pb, type(request).__name__.replace("Request", "Response"))
            return channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=lambda each: each.SerializeToString(),
                response_deserializer=response_type.FromString,
            )(request, metadata=tuple((metadata or {}).items()))

        is_over, versions = asyncio.Event(), []

        async def load() -> None:
            while not is_over.is_set():
                response = await call("ModelInfer", infer_request(["bank", "won"]))
                versions.append(response.model_version)

        loads = [asyncio.ensure_future(load()) for _ in range(4)]
        request = pb.RepositoryModelLoadRequest(model_name="tiny")
        request.parameters["version"].string_param = repository.versions["v1"]
        request.parameters["traffic"].string_param = "switch"
        for key, code in (("", grpc.StatusCode.UNAUTHENTICATED), ("other", grpc.StatusCode.PERMISSION_DENIED)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call("RepositoryModelLoad", request, {"x-api-key": key} if key else None)
            assert caught.value.code() is code
        await call("RepositoryModelLoad", request, ADMIN)
        while hasattr(admission.inference, "predictor"):
            await asyncio.sleep(0.01)
        is_over.set()
        await asyncio.gather(*loads)
        assert set(versions) == {admission.manifest.version, repository.versions["v1"]}
        await host.load("other", LoadOptions())
        request = infer_request(["bank"])
        request.model_name = "other"
        assert (await call("ModelInfer", request)).model_name == "other"
        assert (await call("ModelConfig", pb.ModelConfigRequest(name="other"))).config.name == "other"
        statistics = await call("ModelStatistics", pb.ModelStatisticsRequest(name="other"))
        assert [each.inference_count for each in statistics.model_stats] == [1]
        index = await call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
        assert {(each.name, each.version) for each in index.models} == {
            ("tiny", repository.versions["v1"]),
            ("other", admission.manifest.version),
        }
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call("ModelInfer", infer_request(["bank"], model_version=admission.manifest.version))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    async def run() -> None:
        server = GrpcServer(models, host)
        port = await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await asyncio.wait_for(converse(channel), 60)
        finally:
            await server.stop(1)
            host.close()
            logs.write_pending()

    asyncio.run(run())


def test_two_artifacts_of_one_name_and_shared_engines_are_refused(tiny_artifact: Path, repository: Repository) -> None:
    with pytest.raises(TuneportError, match="both named tiny"):
        check_several(Settings(), [tiny_artifact, repository.folder / "tiny" / "v1"])
    with pytest.raises(TuneportError, match="share the engines"):
        check_several(Settings(workers=2, engines=1), [tiny_artifact, repository.folder / "other"])


def workers_of(supervisor: int) -> list[psutil.Process]:
    return [each for each in psutil.Process(supervisor).children() if WORKER in each.cmdline()]


def test_tuneport_serve_answers_for_each_artifact_and_a_new_worker_has_the_version_that_serves(
    tiny_artifact: Path, repository: Repository, manifest: Any
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = supervisor_command(tiny_artifact, repository.folder / "other", host="127.0.0.1", port=port)
    environment = {
        "TUNEPORT_VARIANT": "fp32",
        "TUNEPORT_ADMIN_KEYS": "admin",
        "TUNEPORT_MODEL_REPOSITORY": str(repository.folder),
    }

    def served(name: str) -> tuple[str, str]:
        model = httpx.post(f"{url}/models/{name}/predict", json={"inputs": "bank"}, timeout=30).json()["model"]
        return model["name"], model["version"]

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    with running(command, url, environment) as pid:
        assert served("tiny") == ("tiny", manifest.version)
        assert served("other") == ("other", manifest.version)
        response = httpx.post(
            f"{url}/v2/repository/models/tiny/load",
            json={"parameters": {"version": repository.versions["v1"]}},
            headers=ADMIN,
            timeout=60,
        )
        assert response.status_code == 200, response.text
        assert served("tiny") == ("tiny", repository.versions["v1"])
        [worker] = workers_of(pid)
        worker.kill()
        worker.wait(10)
        wait_until(is_ready)
        assert workers_of(pid) != [worker]
        assert served("tiny") == ("tiny", repository.versions["v1"])
        assert served("other") == ("other", manifest.version)
