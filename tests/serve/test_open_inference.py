"""Open Inference Protocol v2: over HTTP in this process, and through the public client against a real server."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.encoders import LABELS
from kit.reference import TorchReference
from kit.texts import random_texts
from kit.versions import Repository
from starlette.testclient import TestClient

from tuneport.errors import InputError
from tuneport.schema.artifact import Manifest
from tuneport.stages.serve import tensors
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.bento import serve_command
from tuneport.stages.serve.grpc import open_inference_pb2
from tuneport.stages.serve.grpc.generate import CLIENT as CLIENT_PACKAGE
from tuneport.stages.serve.grpc.generate import generate
from tuneport.stages.serve.http.app import create_app
from tuneport.stages.serve.http.openapi import describe_api
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.process import free_port, running
from tuneport.stages.serve.settings import Settings
from tuneport.version import VERSION

TEXTS = [text for text, _ in zip(random_texts(31), range(12), strict=False)] + ["", "Größe 🙂 世界", "bank " * 200]
HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def admission(tiny_artifact: Path) -> Iterator[AdmissionController]:
    chosen = Settings(variant="fp32", log_requests=False)
    inference = Inference.open(tiny_artifact, chosen)
    yield AdmissionController(inference, chosen)
    inference.close()


@pytest.fixture(scope="module")
def local(admission: AdmissionController) -> Iterator[TestClient]:
    with TestClient(create_app(ModelRegistry(admission))) as client:
        yield client


def text_tensor(texts: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts, **fields}


def outputs(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {each["name"]: each for each in answer.json()["outputs"]}


@pytest.mark.parametrize("path", ["/v2/models/tiny", "/v2/models/tiny/versions/{version}"])
def test_the_model_describes_itself(local: TestClient, manifest: Manifest, path: str) -> None:
    path = path.format(version=manifest.version)
    content = local.get(path).json()
    assert content["versions"] == [manifest.version]
    assert content["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert [(each["name"], each["datatype"]) for each in content["outputs"]] == [
        ("label", "BYTES"),
        ("score", "FP32"),
        ("json", "BYTES"),
    ]
    ready = local.get(f"{path}/ready")
    assert (ready.status_code, ready.json()) == (200, {"name": "tiny", "ready": True})
    assert local.post(f"{path}/infer", json={"inputs": [text_tensor(["bank"])]}).status_code == 200


@pytest.mark.parametrize("path", ["/v2/models/other", "/v2/models/tiny/versions/0", "/v2/models/other/ready"])
def test_another_model_is_404_in_the_protocol_s_shape(local: TestClient, path: str) -> None:
    answer = local.get(path)
    assert answer.status_code == 404
    assert "tiny" in answer.json()["error"]


def test_the_server_is_live_ready_and_named(local: TestClient) -> None:
    assert local.get("/v2/health/live").json() == {"live": True}
    assert local.get("/v2/health/ready").json() == {"ready": True}
    server = {"name": "tuneport", "version": VERSION, "extensions": ["binary_tensor_data"]}
    assert local.get("/v2").json() == server


def test_a_server_that_stops_says_that_it_is_not_ready(local: TestClient, admission: AdmissionController) -> None:
    admission.worker.is_serving = False
    try:
        for path, content in (("health", {"ready": False}), ("models/tiny", {"name": "tiny", "ready": False})):
            answer = local.get(f"/v2/{path}/ready")
            assert (answer.status_code, answer.json()) == (503, content)
    finally:
        admission.worker.is_serving = True


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/v2/nothing", "/v2/models", "/v2/health/live%0A", "/v2/models/a%0Ab", "/v2%0A"])
def test_an_unknown_path_is_404_in_the_protocol_s_shape(local: TestClient, path: str, method: str) -> None:
    answer = local.request(method, path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert method == "HEAD" or isinstance(answer.json()["error"], str)


def test_the_number_of_classes_of_an_output_is_refused(local: TestClient) -> None:
    """Triton's clients send `class_count` so; it would mean another format of the output."""
    output = {"name": "label", "parameters": {"classification": 2}}
    answer = local.post("/v2/models/tiny/infer", json={"inputs": [text_tensor(["bank"])], "outputs": [output]})
    assert answer.status_code == 422
    assert "classification" in answer.json()["error"]
    assert "top_k" in answer.json()["error"]


def test_whole_numbers_may_have_a_point(local: TestClient) -> None:
    content = {"inputs": [{**text_tensor(["bank"]), "shape": [1.0]}], "parameters": {"top_k": 2.0}}
    answer = local.post("/v2/models/tiny/infer", json=content)
    assert len(orjson.loads(outputs(answer)["json"]["data"][0])) == 2
    content["parameters"] = {"top_k": 2.5}
    assert local.post("/v2/models/tiny/infer", json=content).status_code == 422


def test_the_description_has_the_limits_and_the_keys(manifest: Manifest) -> None:
    described = describe_api(manifest, Settings(max_client_batch_size=7, api_keys="one"))
    assert described["components"]["securitySchemes"].keys() == {"bearer", "key"}
    assert described["security"] == [{"bearer": []}, {"key": []}]
    assert described["paths"]["/v2/health/live"]["get"]["security"] == []
    request = described["components"]["schemas"]["Request"]["properties"]
    assert "At most 7 inputs" in str(request["inputs"])
    parameters, null = request["parameters"]["anyOf"]
    assert (parameters["additionalProperties"], null) == (False, {"type": "null"})
    assert "security" not in describe_api(manifest, Settings())


def test_tensors_get_the_answers_of_predict(local: TestClient, tiny_checkpoint: Path) -> None:
    received = outputs(local.post("/v2/models/tiny/infer", json={"id": "7", "inputs": [text_tensor(TEXTS)]}))
    torch = TorchReference(tiny_checkpoint).probabilities(TEXTS)
    assert received["label"]["data"] == [LABELS[row.argmax()] for row in torch]
    assert received["score"]["data"] == pytest.approx(torch.max(-1).tolist(), abs=2e-4)
    predictions = local.post("/predict", json={"inputs": TEXTS}).json()["predictions"]
    assert [json.loads(each) for each in received["json"]["data"]] == predictions
    assert received["json"]["shape"] == [len(TEXTS)]


@pytest.mark.parametrize(
    "tensor",
    [
        text_tensor([["bank"], ["team"]], shape=[2, 1]),
        {"name": "json", "datatype": "BYTES", "shape": [2], "data": ['"bank"', '{"text": "team"}']},
    ],
)
def test_other_forms_of_the_same_inputs(local: TestClient, tensor: dict[str, Any]) -> None:
    received = outputs(local.post("/v2/models/tiny/infer", json={"inputs": [tensor]}))
    expected = local.post("/predict", json={"inputs": ["bank", "team"]}).json()["predictions"]
    assert [json.loads(each) for each in received["json"]["data"]] == expected


def test_parameters_and_chosen_outputs_pass_through(local: TestClient) -> None:
    body = {
        "inputs": [text_tensor(["bank"])],
        "parameters": {"top_k": 2, "priority": 3, "timeout": 5_000_000},
        "outputs": [{"name": "json"}],
    }
    received = outputs(local.post("/v2/models/tiny/infer", json=body))
    assert received.keys() == {"json"}
    assert len(json.loads(received["json"]["data"][0])) == 2


def test_binary_tensors_in_both_directions(local: TestClient) -> None:
    elements = [text.encode() for text in TEXTS]
    raw = b"".join(len(each).to_bytes(4, "little") + each for each in elements)
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    answer = local.post("/v2/models/tiny/infer", content=header + raw, headers={HEADER: str(len(header))})
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers[HEADER])
    content, binary = json.loads(answer.content[:size]), answer.content[size:]
    parts = {}
    for output in content["outputs"]:
        length = output["parameters"]["binary_data_size"]
        parts[output["name"]], binary = binary[:length], binary[length:]
    assert binary == b""
    plain = outputs(local.post("/v2/models/tiny/infer", json={"inputs": [text_tensor(TEXTS)]}))
    labels = tensors.split_bytes("label", parts["label"], len(TEXTS))
    assert [each.decode() for each in labels] == plain["label"]["data"]
    np.testing.assert_allclose(np.frombuffer(parts["score"], "<f4"), plain["score"]["data"], rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ([], 422, "object"),
        ({}, 422, "inputs"),
        ({"inputs": []}, 422, "inputs"),
        ({"inputs": [7]}, 422, "object"),
        ({"inputs": [{"name": "text"}]}, 422, "datatype"),
        ({"inputs": [text_tensor(["bank"], datatype="FP32")]}, 422, "BYTES"),
        ({"inputs": [text_tensor(["bank"], shape=[2])]}, 422, "2 string"),
        ({"inputs": [text_tensor(["bank"], shape=[1, 2])]}, 422, "[N, 1]"),
        ({"inputs": [text_tensor(["bank"], shape=[-1])]}, 422, "shape"),
        ({"inputs": [text_tensor(["bank"], shape=[True])]}, 422, "shape"),
        ({"inputs": [text_tensor(["bank"], shape=[10**15])]}, 413, "limit"),
        ({"inputs": [text_tensor([], shape=[0])]}, 422, "empty"),
        ({"inputs": [text_tensor([7])]}, 422, "string"),
        ({"inputs": [text_tensor(["bank"], data="bank")]}, 422, "data"),
        ({"inputs": [text_tensor(["bank"], name="txt")]}, 422, "'text'"),
        ({"inputs": [text_tensor(["bank"]), text_tensor(["bank"])]}, 422, "'text'"),
        ({"inputs": [text_tensor(["{"], name="json")]}, 422, "not JSON"),
        ({"inputs": [text_tensor(["7"], name="json")]}, 422, "a number"),
        ({"inputs": [text_tensor(["bank"], parameters={"binary_data_size": 9})]}, 422, "not there"),
        ({"inputs": [text_tensor(["bank"])], "outputs": [{"name": "logits"}]}, 422, "label"),
        ({"inputs": [text_tensor(["bank"])], "outputs": 7}, 422, "outputs"),
        ({"inputs": [text_tensor(["bank"])], "parameters": {"top_k": 0}}, 422, "top_k"),
        ({"inputs": [text_tensor(["bank"])], "parameters": {"timeout": "soon"}}, 422, "timeout"),
        ({"inputs": [text_tensor(["bank"])], "parameters": 7}, 422, "parameters"),
    ],
)
def test_what_is_malformed_is_refused_and_named(local: TestClient, body: Any, status: int, word: str) -> None:
    answer = local.post("/v2/models/tiny/infer", json=body)
    assert answer.status_code == status
    assert word in answer.json()["error"]
    assert local.post("/v2/models/tiny/infer", json={"inputs": [text_tensor(["bank"])]}).status_code == 200


@pytest.mark.parametrize("length", ["", "x", "-1", "1e3", "99999999", "²"])
def test_a_wrong_header_length_is_400(local: TestClient, length: str) -> None:
    answer = local.post("/v2/models/tiny/infer", content=b"{}", headers={HEADER: length.encode()})
    assert answer.status_code == 400


@given(st.binary(max_size=64), st.integers(min_value=0, max_value=9))
def test_random_raw_bytes_are_elements_or_refused(raw: bytes, count: int) -> None:
    try:
        elements = tensors.split_bytes("text", raw, count)
    except InputError:
        return
    assert len(elements) == count
    assert b"".join(len(each).to_bytes(4, "little") + each for each in elements) == raw


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["inputs", "text", "parameters", "name", "shape", "data"]), inner, max_size=3
            )
        ),
    )
)
def test_random_json_never_fails_the_server(local: TestClient, content: Any) -> None:
    for path in ("/predict", "/v2/models/tiny/infer"):
        answer = local.post(path, content=json.dumps(content).encode("utf-8", "replace"))
        assert answer.status_code in (200, 400, 413, 422)
        assert (answer.status_code == 200) == ("error" not in answer.json())


@settings(max_examples=30)
@given(st.lists(st.text(max_size=80), min_size=1, max_size=6))
def test_random_texts_get_torch_s_answers_through_both_protocols(
    local: TestClient, tiny_checkpoint: Path, texts: list[str]
) -> None:
    torch = TorchReference(tiny_checkpoint).probabilities(texts)
    received = outputs(local.post("/v2/models/tiny/infer", json={"inputs": [text_tensor(texts)]}))
    assert received["score"]["data"] == pytest.approx(torch.max(-1).tolist(), abs=2e-4)
    plain = local.post("/predict", json={"inputs": texts}).json()["predictions"]
    assert [json.loads(each) for each in received["json"]["data"]] == plain


def test_the_committed_messages_are_those_of_the_proto_file(tmp_path: Path) -> None:
    server, client = generate(tmp_path, Path(shutil.copytree(CLIENT_PACKAGE, tmp_path / "client")))
    assert server.read_text() == Path(open_inference_pb2.__file__).read_text()
    assert client.read_text() == (CLIENT_PACKAGE / client.name).read_text()


CLIENT = """
import json, sys, time
import numpy as np
port, grpc_port, texts = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
import tritonclient.http, tritonclient.grpc
answers = {}
for name, module, url in (
    ("http", tritonclient.http, f"127.0.0.1:{port}"), ("grpc", tritonclient.grpc, f"127.0.0.1:{grpc_port}")
):
    client = module.InferenceServerClient(url)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny")
    metadata = client.get_model_metadata("tiny")
    client.get_server_metadata()
    texts_tensor = module.InferInput("text", [len(texts), 1], "BYTES")
    texts_tensor.set_data_from_numpy(np.array([[text] for text in texts], dtype=object))
    result = client.infer("tiny", [texts_tensor])
    wanted = [module.InferRequestedOutput("score"), module.InferRequestedOutput("label")]
    chosen = client.infer("tiny", [texts_tensor], outputs=wanted, request_id="7", parameters={"top_k": 2})
    assert chosen.as_numpy("json") is None
    assert (chosen.as_numpy("score") == result.as_numpy("score")).all()
    answers[name] = {
        "label": [each.decode() for each in result.as_numpy("label")],
        "score": result.as_numpy("score").tolist(),
        "json": [json.loads(each) for each in result.as_numpy("json")],
    }
    admin = {"x-api-key": "admin"}
    for _ in range(100):
        try:
            client.load_model("other", headers=admin)
            break
        except module.InferenceServerException as error:  # while the other worker starts
            assert "another change" in str(error)
            time.sleep(0.1)
    assert client.is_model_ready("other")
    client.infer("other", [texts_tensor])
    client.unload_model("other", headers=admin)
    try:
        client.infer("other", [texts_tensor])
    except module.InferenceServerException as error:
        answers[name]["error"] = str(error)
    client.close()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def ports(bento_tag: str, repository: Repository) -> Iterator[tuple[int, int]]:
    """Run BentoML's service with two workers."""
    port, grpc_port = free_port(), free_port()
    environment = {
        "TUNEPORT_VARIANT": "fp32",
        "TUNEPORT_GRPC_PORT": str(grpc_port),
        "TUNEPORT_WORKERS": "2",
        "TUNEPORT_ADMIN_KEYS": "admin",
        "TUNEPORT_MODEL_REPOSITORY": str(repository.folder),
    }
    command = serve_command(bento_tag, host="127.0.0.1", port=port)
    with running(command, f"http://127.0.0.1:{port}", environment):
        yield port, grpc_port


def test_the_public_client_works_unchanged_over_both_protocols(ports: tuple[int, int], tiny_checkpoint: Path) -> None:
    """In a process of its own: its messages and ours cannot be imported into one."""
    arguments = [*map(str, ports), json.dumps(TEXTS)]
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    received = json.loads(done.stdout)
    torch = TorchReference(tiny_checkpoint).probabilities(TEXTS)
    for answers in received.values():
        assert answers["label"] == [LABELS[row.argmax()] for row in torch]
        assert answers["score"] == pytest.approx(torch.max(-1).tolist(), abs=2e-4)
        assert "there is no model other" in answers["error"]
    assert received["http"]["json"] == received["grpc"]["json"]
