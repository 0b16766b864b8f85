"""Several versions of a model in one service: loaded and switched to under load, as a shadow, by weight."""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.artifacts import alter_golden, change_byte, reseal
from kit.engines import fail_with, wait_until
from kit.serving import LocalService, local_service

from tuneport.stages.serve.models.registry import place_of

ADMIN = {"x-api-key": "admin"}


@pytest.fixture
def repository(tiny_artifact: Path, tmp_path: Path) -> Path:
    """A folder with the versions 1 (which differs from the one that serves in nothing else) and broken ones."""
    for version in ("v1", "damaged", "wrong"):
        folder = Path(shutil.copytree(tiny_artifact, tmp_path / "tiny" / version))
        if version == "wrong":
            alter_golden(folder, 1.0)
        reseal(folder, {"version": version})
    change_byte(next((tmp_path / "tiny" / "damaged" / "onnx" / "fp32").glob("*.onnx")))
    relabelled = Path(shutil.copytree(tiny_artifact, tmp_path / "relabelled"))
    reseal(relabelled, {"version": "relabelled", "labels": ["x", "y", "z"]})
    return tmp_path


@pytest.fixture
def service(tiny_artifact: Path, repository: Path) -> Iterator[LocalService]:
    with local_service(tiny_artifact, admin_keys="admin", model_repository=repository) as service:
        yield service


def change(service: LocalService, action: str, headers: dict[str, str] = ADMIN, **parameters: Any) -> httpx.Response:
    url = f"{service.url}/v2/repository/models/tiny/{action}"
    return httpx.post(url, json={"parameters": parameters}, headers=headers, timeout=60)


def version_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["model"]["version"])


def test_a_version_is_switched_to_under_load_and_the_old_one_is_closed(service: LocalService) -> None:
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
    assert change(service, "load", version="v1").json()["version"] == "v1"
    assert version_of(service.post()) == "v1"
    wait_until(lambda: not hasattr(first.inference, "predictor"))
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(statuses) > 4
    assert set(statuses) == {200}
    gauges = [line for line in service.get("/metrics").text.splitlines() if line.startswith("tuneport_queue_inputs{")]
    assert len(gauges) == 1
    assert 'model_version="v1"' in gauges[0]


def test_a_request_is_answered_by_the_version_that_it_began_with(service: LocalService) -> None:
    service.admission.active_requests += 1
    assert change(service, "load", version="v1").status_code == 200
    assert hasattr(service.inference, "predictor")
    service.admission.active_requests -= 1
    wait_until(lambda: not hasattr(service.inference, "predictor"))


@pytest.mark.parametrize(
    ("version", "words"),
    [("damaged", "SHA-256"), ("wrong", "golden"), ("relabelled", "other labels"), ("v9", "the model repository has no"),
     ("../v1", "the model repository has no")],
)  # fmt: skip
def test_a_version_that_may_not_serve_leaves_the_old_one(
    service: LocalService, manifest: Any, version: str, words: str
) -> None:
    response = change(service, "load", version=version)
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


def test_the_index_says_what_is_loaded_and_what_is_not(service: LocalService, manifest: Any) -> None:
    change(service, "load", version="damaged")
    change(service, "load", version="v1", traffic="shadow")
    listed = {each["version"]: each for each in service.get("/v2/repository/index").json()}
    assert listed[manifest.version]["state"] == listed["v1"]["state"] == "READY"
    assert listed["v1"]["reason"] == f"shadow of {manifest.version}"
    assert listed["damaged"]["state"] == "UNAVAILABLE"
    assert "SHA-256" in listed["damaged"]["reason"]
    assert listed["wrong"]["reason"] == "not loaded"


def test_a_shadow_is_compared_and_never_answers(service: LocalService, manifest: Any) -> None:
    assert change(service, "load", version="v1", traffic="shadow").status_code == 200
    shadow = next(iter(service.models)).shadow
    assert shadow

    def counted(result: str) -> bool:
        line = next(
            (each for each in service.get("/metrics").text.splitlines()
             if each.startswith("tuneport_shadow_inputs_total{") and f'result="{result}"' in each), "0 0",
        )  # fmt: skip
        return float(line.split()[-1]) == 3.0

    assert version_of(service.post(["bank", "won", "fell"])) == manifest.version
    wait_until(lambda: counted("agree"))
    task = shadow.inference.predictor.task
    task.is_equivalent = lambda *_: False  # type: ignore[method-assign]
    assert version_of(service.post(["bank", "won", "fell"])) == manifest.version
    wait_until(lambda: counted("disagree"))
    fail_with(shadow.inference.predictor.runner, RuntimeError("broken"))
    assert version_of(service.post(["bank", "won", "fell"])) == manifest.version
    wait_until(lambda: counted("failed"))
    assert change(service, "unload", version="v1").status_code == 200
    assert service.admission.observe is None


def test_requests_are_divided_by_weight_and_by_key(service: LocalService, manifest: Any) -> None:
    """Of 300 requests at 0.3 fewer than 50 or more than 130 would be five standard deviations away."""
    assert change(service, "load", version="v1", traffic=0.3).status_code == 200
    with httpx.Client(base_url=service.url, timeout=30) as client:

        def answered(key: str | None = None) -> str:
            headers = {} if key is None else {"x-tuneport-key": key}
            return version_of(client.post("/predict", json={"inputs": "bank"}, headers=headers))

        counts = Counter(answered() for _ in range(300))
        assert 50 < counts["v1"] < 130
        for key in ("a", "b", "c", "d", "e"):
            expected = "v1" if place_of("tiny", key) < 0.3 else manifest.version
            assert {answered(key) for _ in range(3)} == {expected}
        path = f"/models/tiny/versions/{manifest.version}/predict"
        assert version_of(client.post(path, json={"inputs": "bank"})) == manifest.version
        assert client.post("/models/other/predict", json={"inputs": "bank"}).status_code == 404
    opened = next(iter(service.models)).candidate
    assert change(service, "load", version="v1").status_code == 200  # promoted, not opened again
    assert service.models.default.serving is opened
