"""Triton's extensions over HTTP, asked by its own client: index, configuration, statistics."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import tritonclient.http as triton
from kit.serving import LocalService, local_service

from tuneport.schema.artifact import Manifest
from tuneport.stages.serve.http import model_management, open_inference
from tuneport.stages.serve.models.statistics import outcome_of


@pytest.fixture(scope="module")
def service(tiny_artifact: Path) -> Iterator[LocalService]:
    with local_service(tiny_artifact) as service:
        yield service


@pytest.fixture
def client(service: LocalService) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(service.url.removeprefix("http://"))
    yield client
    client.close()


def test_the_index_has_the_model(client: triton.InferenceServerClient, manifest: Manifest) -> None:
    [model] = client.get_model_repository_index()
    assert model == {"name": "tiny", "version": manifest.version, "state": "READY", "reason": ""}


def test_the_configuration_has_tensors_limits_and_execution(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("tiny")
    assert config["input"] == [{"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}]
    assert [each["name"] for each in config["output"]] == ["label", "score", "json"]
    assert (config["backend"], config["max_batch_size"]) == ("onnxruntime", 512)
    assert config["parameters"]["variant"] == {"string_value": "fp32"}
    assert config["instance_group"][0]["kind"] == "KIND_CPU"


def test_the_statistics_count_what_was_asked(client: triton.InferenceServerClient, service: LocalService) -> None:
    def statistics() -> dict[str, int]:
        [model] = client.get_inference_statistics("tiny")["model_stats"]
        counts = {name: each["count"] for name, each in model["inference_stats"].items()}
        return {**counts, "inputs": model["inference_count"], "batches": model["execution_count"]}

    before = statistics()
    assert service.post(["bank", "won", "fell"]).status_code == 200
    assert service.post(7).status_code == 422
    assert httpx.post(f"{service.url}/rerank", json={"query": "bank", "texts": ["won"]}).status_code == 404
    service.get("/v2/models/tiny")  # no inference
    change = {name: count - before[name] for name, count in statistics().items()}
    assert change.pop("batches") == change.pop("compute_infer") >= 1
    assert change == {"success": 1, "fail": 2, "cancel": 0, "queue": 3, "inputs": 3}
    all_models = client.get_inference_statistics()["model_stats"]
    assert all_models[0]["inference_stats"]["compute_infer"]["ns"] > 0


def test_every_route_is_described(service: LocalService) -> None:
    described = service.get("/docs.json").json()["paths"]
    for route in (*model_management.routes, *open_inference.routes):
        methods = {name.upper() for name in described.get(route.path, ())} - {"PARAMETERS"}
        assert methods == (route.methods or set()) - {"HEAD"}, route.path


@pytest.mark.parametrize("path", ["other/stats", "other/config", "tiny/versions/0/stats"])
def test_another_model_is_not_found(service: LocalService, path: str) -> None:
    response = service.get(f"/v2/models/{path}")
    assert response.status_code == 404
    assert "tiny" in response.json()["error"]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("200", "success"), ("OK", "success"), ("422", "fail"), ("UNAVAILABLE", "fail"), ("499", "cancel"),
     ("CANCELLED", "cancel")],
)  # fmt: skip
def test_outcomes(status: str, outcome: str) -> None:
    assert outcome_of(status) == outcome
