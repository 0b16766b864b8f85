"""`/predict` of the built bento, as a client sees it; a stalled engine, over the same application in this process."""

import asyncio
import json
import random
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.artifacts import change_byte
from kit.encoders import LABELS, build_checkpoint
from kit.engines import StalledEngine, fail_with, wait_until
from kit.reference import TorchReference
from kit.servers import Server
from kit.serving import assert_error
from kit.texts import random_texts
from starlette.testclient import TestClient

from tuneport.errors import TuneportError
from tuneport.schema.artifact import Manifest
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.http.app import create_app
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.process import free_port, running
from tuneport.stages.serve.registered import MODEL_NAME
from tuneport.stages.serve.settings import Settings

TEXTS = [text for text, _ in zip(random_texts(21), range(60), strict=False)] + ["", "Größe 🙂 世界", "bank " * 200]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path) -> list[dict[str, Any]]:
    """Torch's answers to TEXTS."""
    probabilities = TorchReference(tiny_checkpoint).probabilities(TEXTS)
    return [{"label": LABELS[row.argmax()], "score": float(row.max())} for row in probabilities]


def assert_answers(predictions: list[Any], expected: Sequence[dict[str, Any]]) -> None:
    assert [each["label"] for each in predictions] == [each["label"] for each in expected]
    assert [each["score"] for each in predictions] == pytest.approx([each["score"] for each in expected], abs=2e-4)


def test_texts_alone_get_torch_s_answers(client: httpx.Client, expected: list[dict[str, Any]]) -> None:
    alone = [client.post("/predict", json={"inputs": text}).json()["predictions"] for text in TEXTS]
    assert {len(predictions) for predictions in alone} == {1}
    assert_answers([predictions[0] for predictions in alone], expected)


def test_a_list_of_mixed_lengths_gets_torch_s_answers_in_order(
    client: httpx.Client, expected: list[dict[str, Any]]
) -> None:
    answer = client.post("/predict", json={"inputs": TEXTS}).json()
    assert_answers(answer["predictions"], expected)


def test_a_permuted_list_gets_permuted_answers(client: httpx.Client, expected: list[dict[str, Any]]) -> None:
    order = random.Random(1).sample(range(len(TEXTS)), len(TEXTS))
    answer = client.post("/predict", json={"inputs": [TEXTS[i] for i in order]}).json()
    assert_answers(answer["predictions"], [expected[i] for i in order])


def test_objects_and_strings_mean_the_same(client: httpx.Client, expected: list[dict[str, Any]]) -> None:
    inputs = [{"text": text} if i % 2 else text for i, text in enumerate(TEXTS)]
    assert_answers(client.post("/predict", json={"inputs": inputs}).json()["predictions"], expected)
    assert_answers(client.post("/predict", json={"inputs": inputs[1]}).json()["predictions"], expected[1:2])


def test_an_answer_names_its_model(client: httpx.Client, manifest: Manifest) -> None:
    answer = client.post("/predict", json={"inputs": "bank"}).json()
    assert answer["model"] == {"name": "tiny", "version": manifest.version, "variant": "fp32"}


def test_only_a_text_that_was_cut_says_so(client: httpx.Client) -> None:
    predictions = client.post("/predict", json={"inputs": ["bank " * 62, "bank " * 63]}).json()["predictions"]
    assert "truncated" not in predictions[0]
    assert predictions[1]["truncated"] is True


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (99, 3)])
def test_top_k_gives_the_likeliest_labels_best_first(
    client: httpx.Client, tiny_checkpoint: Path, top_k: int, count: int
) -> None:
    answer = client.post("/predict", json={"inputs": TEXTS[:1], "parameters": {"top_k": top_k}})
    best = answer.json()["predictions"][0]
    torch = TorchReference(tiny_checkpoint).probabilities(TEXTS[:1])[0]
    assert len(best) == count
    assert [each["label"] for each in best] == [LABELS[i] for i in (-torch).argsort()[:count]]
    assert [each["score"] for each in best] == pytest.approx(sorted(torch.tolist(), reverse=True)[:count], abs=2e-4)


def test_parameters_may_be_null_or_empty(client: httpx.Client) -> None:
    plain = client.post("/predict", json={"inputs": "bank"}).json()
    for parameters in (None, {}, {"top_k": None}):
        assert client.post("/predict", json={"inputs": "bank", "parameters": parameters}).json() == plain


@pytest.mark.parametrize(
    "body", [b"", b"{", b"text", b'{"inputs": "\xff"}', b'{"inputs": NaN}', b'{"inputs": "\\ud800"}', b"[" * 10_000]
)
def test_what_is_not_json_is_400(client: httpx.Client, body: bytes) -> None:
    assert_error(client.post("/predict", content=body), 400, "not_json")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ([], "inputs"),
        ("text", "inputs"),
        (None, "inputs"),
        ({}, "inputs"),
        ({"text": "bank"}, "inputs"),
        ({"inputs": "bank", "paramters": {}}, "paramters"),
        ({"inputs": []}, "empty list"),
        ({"inputs": None}, "inputs[0]"),
        ({"inputs": 7}, "inputs[0]"),
        ({"inputs": ["bank", True]}, "inputs[1]"),
        ({"inputs": [["bank"]]}, "inputs[0]"),
        ({"inputs": {}}, "inputs[0]"),
        ({"inputs": {"text": 7}}, "a number"),
        ({"inputs": {"txt": "bank"}}, "txt"),
        ({"inputs": {"text": "bank", "text_pair": "fell"}}, "exported for single texts"),
        ({"inputs": {"question": "who", "context": "bank"}}, "context"),
        ({"inputs": "bank", "parameters": []}, "parameters"),
        ({"inputs": "bank", "parameters": 0}, "parameters"),
        ({"inputs": "bank", "parameters": ""}, "parameters"),
        ({"inputs": "bank", "parameters": "top_k"}, "parameters"),
        ({"inputs": "bank", "parameters": {"top_k": 0}}, "top_k"),
        ({"inputs": "bank", "parameters": {"top_k": -1}}, "top_k"),
        ({"inputs": "bank", "parameters": {"top_k": "2"}}, "top_k"),
        ({"inputs": "bank", "parameters": {"top_k": 1.5}}, "top_k"),
        ({"inputs": "bank", "parameters": {"top_k": True}}, "top_k"),
        ({"inputs": "bank", "parameters": {"topk": 2}}, "topk"),
    ],
)
def test_what_is_not_a_request_is_422_and_says_where(client: httpx.Client, content: object, word: str) -> None:
    assert_error(client.post("/predict", content=json.dumps(content)), 422, word)


def test_one_bad_input_among_many_is_named_and_does_not_hurt_the_next_request(client: httpx.Client) -> None:
    assert_error(client.post("/predict", json={"inputs": ["bank"] * 20 + [None] + ["bank"]}), 422, "inputs[20]")
    assert client.post("/predict", json={"inputs": ["bank"] * 22}).status_code == 200


def test_a_text_of_a_megabyte_is_answered_and_says_that_it_was_cut(client: httpx.Client) -> None:
    text = "the bank fell " * 74_000
    answer = client.post("/predict", json={"inputs": text})
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["truncated"] is True
    shorter = client.post("/predict", json={"inputs": text[:1000]}).json()["predictions"][0]
    assert answer.json()["predictions"][0] == shorter


def test_ten_thousand_inputs_are_413_with_the_limit(client: httpx.Client) -> None:
    assert_error(
        client.post("/predict", json={"inputs": ["bank"] * 10_000}),
        413,
        "10000",
        "512",
        "TUNEPORT_MAX_CLIENT_BATCH_SIZE",
    )
    assert client.post("/predict", json={"inputs": ["bank"] * 512}).status_code == 200
    assert_error(client.post("/predict", json={"inputs": ["bank"] * 513}), 413, "512")


def test_a_body_over_the_limit_is_413(client: httpx.Client) -> None:
    assert_error(client.post("/predict", json={"inputs": "x" * 9 * 2**20}), 413, str(8 * 2**20))


def test_a_body_over_the_limit_without_a_length_is_413(client: httpx.Client) -> None:
    assert_error(client.post("/predict", content=(b"x" * 2**20 for _ in range(9))), 413, str(8 * 2**20))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_method_is_405_and_names_the_right_one(client: httpx.Client, method: str) -> None:
    answer = client.request(method, "/predict")
    assert_error(answer, 405, "POST")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/predictions", "/predict/", "/v3", "/no/such/path", "/docs"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_another_path_is_404(client: httpx.Client, method: str, path: str) -> None:
    assert_error(client.request(method, path), 404, path)


def test_every_answer_has_a_request_id_and_takes_a_safe_one(client: httpx.Client) -> None:
    for given, kept in (("order-7.a", True), ("a" * 128, True), ("a" * 129, False), ("two words", False)):
        answer = client.post("/predict", json={"inputs": "bank"}, headers={"x-request-id": given})
        assert (answer.headers["x-request-id"] == given) is kept
    ids = {client.get("/nowhere").headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs.json"])
def test_bentoml_s_paths_and_ours_are_there(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_concurrent_clients_each_get_their_own_answers(server: Server, expected: list[dict[str, Any]]) -> None:
    async def one(client: httpx.AsyncClient, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(10):
            chosen = chance.sample(range(len(TEXTS)), chance.choice((1, 2, 9)))
            answer = await client.post("/predict", json={"inputs": [TEXTS[i] for i in chosen]})
            assert answer.status_code == 200
            assert_answers(answer.json()["predictions"], [expected[i] for i in chosen])

    async def all_of_them() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            await asyncio.gather(*(one(client, seed) for seed in range(16)))

    asyncio.run(all_of_them())


def cancelled_requests(client: httpx.Client) -> float:
    """Return how many requests the server counted as cancelled."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("tuneport_cancelled_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_clients_that_leave_do_not_hurt_those_who_stay(
    server: Server, client: httpx.Client, expected: list[dict[str, Any]]
) -> None:
    """Each of them sends a whole request, of many batches, and closes its connection before the answer."""
    body = json.dumps({"inputs": ["the team won the game " * 20] * 300}).encode()
    header = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    before = cancelled_requests(client)
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=30) as connection:
            connection.sendall(header + body)
    assert_answers(client.post("/predict", json={"inputs": TEXTS}).json()["predictions"], expected)
    wait_until(lambda: cancelled_requests(client) == before + 10)


# In this process, with an engine that can be stalled.


@pytest.fixture
def inference(tiny_artifact: Path) -> Iterator[Inference]:
    settings = Settings(variant="fp32", max_queue_inputs=4, request_timeout_s=0.2)
    inference = Inference.open(tiny_artifact, settings)
    yield inference
    inference.close()


@pytest.fixture
def local(inference: Inference) -> Iterator[TestClient]:
    with TestClient(create_app(ModelRegistry(AdmissionController(inference, inference._settings)))) as client:
        yield client


def test_a_request_that_never_fits_into_the_queue_is_413_and_not_to_be_retried(local: TestClient) -> None:
    response = local.post("/predict", json={"inputs": ["bank"] * 5})
    assert_error(response, 413, "5 rows in one request, and the limit is 4")
    assert "retry-after" not in response.headers
    assert local.post("/predict", json={"inputs": ["bank"] * 4}).status_code == 200


def test_what_takes_too_long_is_503_and_the_next_request_is_answered(local: TestClient, inference: Inference) -> None:
    engine = StalledEngine.of(inference.predictor.runner, stalled=True)
    assert_error(local.post("/predict", json={"inputs": "bank"}), 503, "0.2 s")
    assert engine.calls
    # These wait behind the first and are dropped in turn: none of them may fill the queue.
    for _ in range(3):
        assert_error(local.post("/predict", json={"inputs": ["bank"] * 4}), 503)
    engine.resume()
    assert local.post("/predict", json={"inputs": "bank"}).status_code == 200


def test_a_stopping_service_is_503_and_no_overload(local: TestClient, inference: Inference) -> None:
    inference.batcher.close()
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["bank"]}
    for path, content in (("/predict", {"inputs": "bank"}), ("/v2/models/tiny/infer", {"inputs": [tensor]})):
        response = local.post(path, json=content)
        assert response.status_code == 503
        assert "the service is stopping" in response.text
        assert "retry-after" not in response.headers
    assert local.post("/predict", json={"inputs": "bank"}).json()["error"]["code"] == "stopping"
    assert "tuneport_rejected_requests_total{" not in local.get("/metrics").text


def test_a_model_that_fails_is_500_in_the_same_shape(local: TestClient, inference: Inference) -> None:
    fail_with(inference.predictor.runner, RuntimeError("secret"))
    response = local.post("/predict", json={"inputs": "bank"})
    assert_error(response, 500, "RuntimeError")
    assert "secret" not in response.text


# The service as a whole.


def test_a_damaged_artifact_stops_the_service_from_starting(artifact: Path) -> None:
    import bentoml

    tag = f"{MODEL_NAME}:damaged"
    with bentoml.models.create(tag) as stored:
        change_byte(artifact / "onnx" / "fp32" / "model.onnx")
        for path in artifact.rglob("*"):
            if path.is_file():
                target = Path(stored.path) / path.relative_to(artifact)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    port = free_port()
    command = serve_command(SERVICE, host="127.0.0.1", port=port, model=tag)
    try:
        with (
            pytest.raises(TuneportError, match="SHA-256 differs"),
            running(command, f"http://127.0.0.1:{port}", {"TUNEPORT_VARIANT": "fp32"}),
        ):
            pass
    finally:
        bentoml.models.delete(tag)


def test_a_wrong_setting_stops_the_service_from_starting(tiny_artifact: Path) -> None:
    port = free_port()
    command = serve_command(SERVICE, host="127.0.0.1", port=port, model=register(tiny_artifact))
    with (
        pytest.raises(TuneportError, match="TUNEPORT_MAX_CLIENT_BATCH_SIZE"),
        running(command, f"http://127.0.0.1:{port}", {"TUNEPORT_MAX_CLIENT_BATCH_SIZE": "0"}),
    ):
        pass


@pytest.mark.slow
def test_a_bento_keeps_its_artifact_though_another_is_registered_later(
    bento_tag: str, manifest: Manifest, tmp_path: Path
) -> None:
    build_checkpoint(tmp_path / "checkpoint", labels=("x", "y", "z"))
    other = export(ExportConfig(checkpoint=tmp_path / "checkpoint", variants=("fp32",)), tmp_path / "other")
    assert register(tmp_path / "other").startswith(f"{MODEL_NAME}:{other.version}-")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(serve_command(bento_tag, host="127.0.0.1", port=port), url):
        answer = httpx.post(f"{url}/predict", json={"inputs": "bank"}, timeout=60).json()
    assert answer["model"]["version"] == manifest.version != other.version
    assert answer["predictions"][0]["label"] in LABELS
