"""Several versions of a model in one service: loaded and switched to under load, as a shadow, by weight."""

import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.artifacts import alter_golden, change_byte, reseal
from kit.engines import fail_with, wait_until
from kit.serving import LocalService, local_service

from tuneport.schema.loading import load_manifest
from tuneport.stages.serve.models.registry import place_of

ADMIN = {"x-api-key": "admin"}
TEMPERATURES = {"v1": 1.0001, "damaged": 1.0002, "wrong": 1.0003, "relabelled": 1.0004}
"""What makes artifacts other versions, and leaves their logits and their golden cases as they are."""


@dataclass(frozen=True)
class Repository:
    """A model repository, and the versions of the artifacts in its folders by their names."""

    folder: Path
    versions: dict[str, str]


@pytest.fixture(scope="module")
def repository(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Hold a version that differs from the one that serves in its temperature alone, and three that may not serve."""
    root = tmp_path_factory.mktemp("repository")
    versions = {}
    for name, temperature in TEMPERATURES.items():
        folder = root / name if name == "relabelled" else root / "tiny" / name
        shutil.copytree(tiny_artifact, folder)
        if name == "wrong":
            alter_golden(folder, 1.0)
        processing = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["processing"]
        changes: dict[str, Any] = {"processing": {**processing, "temperature": temperature}}
        if name == "relabelled":
            changes["labels"] = ["x", "y", "z"]
        reseal(folder, changes)
        versions[name] = load_manifest(folder).version
    change_byte(next((root / "tiny" / "damaged" / "onnx" / "fp32").glob("*.onnx")))
    return Repository(root, versions)


@pytest.fixture
def service(tiny_artifact: Path, repository: Repository) -> Iterator[LocalService]:
    with local_service(tiny_artifact, admin_keys="admin", model_repository=repository.folder) as service:
        yield service


def change(service: LocalService, action: str, headers: dict[str, str] = ADMIN, **parameters: Any) -> httpx.Response:
    url = f"{service.url}/v2/repository/models/tiny/{action}"
    return httpx.post(url, json={"parameters": parameters}, headers=headers, timeout=60)


def version_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["model"]["version"])


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


def test_a_request_is_answered_by_the_version_that_it_began_with(service: LocalService, repository: Repository) -> None:
    service.admission.active_requests += 1
    assert change(service, "load", version=repository.versions["v1"]).status_code == 200
    assert hasattr(service.inference, "predictor")
    service.admission.active_requests -= 1
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


def test_the_index_says_what_is_loaded_and_what_is_not(
    service: LocalService, repository: Repository, manifest: Any
) -> None:
    change(service, "load", version=repository.versions["damaged"])
    change(service, "load", version=repository.versions["v1"], traffic="shadow")
    listed = {each["version"]: each for each in service.get("/v2/repository/index").json()}
    assert listed[manifest.version]["state"] == listed[repository.versions["v1"]]["state"] == "READY"
    assert listed[repository.versions["v1"]]["reason"] == f"shadow of {manifest.version}"
    assert listed[repository.versions["damaged"]]["state"] == "UNAVAILABLE"
    assert "SHA-256" in listed[repository.versions["damaged"]]["reason"]
    assert listed[repository.versions["wrong"]]["reason"] == "not loaded"


def test_a_shadow_is_compared_and_never_answers(service: LocalService, repository: Repository, manifest: Any) -> None:
    assert change(service, "load", version=repository.versions["v1"], traffic="shadow").status_code == 200
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
    assert change(service, "unload", version=repository.versions["v1"]).status_code == 200
    assert service.admission.observe is None


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
