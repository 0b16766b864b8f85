"""Triton's generate extension over HTTP: the text whole or in events, its parameters, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.serving import LocalService, local_service

from tuneport.stages.serve.http.openapi import describe_api
from tuneport.stages.serve.settings import Settings

PATH = "/v2/models/tiny-chat/generate"


@pytest.fixture(scope="module")
def service(chat: Path) -> Iterator[LocalService]:
    with local_service(chat, variant=None) as service:
        yield service


def post(service: LocalService, content: Any, path: str = PATH) -> httpx.Response:
    return httpx.post(f"{service.url}{path}", json=content, timeout=60)


def events_of(answer: httpx.Response) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]


def test_a_text_is_generated_as_predict_does(service: LocalService) -> None:
    predictor, manifest = service.inference.predictor, service.admission.manifest
    parameters = {"max_new_tokens": 12, "stop": "\n"}
    [expected] = predictor.predict(["one two"], parameters)
    rest = {name: value for name, value in expected.items() if name != "text"}
    model = {"model_name": "tiny-chat", "model_version": manifest.version}
    answer = post(service, {"text_input": "one two", "parameters": parameters})
    assert answer.json() == {**model, "text_output": expected["text"], **rest}
    assert expected["finish_reason"] == "length"
    of_openai = {"text_input": "one two", "id": "7", "parameters": {"max_tokens": 12, "stop": ["\n"], "stream": False}}
    by_version = post(service, of_openai, f"/v2/models/tiny-chat/versions/{manifest.version}/generate")
    assert by_version.json() == {**answer.json(), "id": "7"}


def test_a_stream_is_the_same_text_in_pieces(service: LocalService) -> None:
    content = {"text_input": "one two", "id": "7", "parameters": {"max_new_tokens": 12}}
    whole = post(service, content).json()
    *pieces, last = events_of(post(service, content, f"{PATH}_stream"))
    assert len(pieces) > 1
    assert "".join(piece["text_output"] for piece in pieces) == whole["text_output"]
    assert all(piece.keys() == {"id", "model_name", "model_version", "text_output"} for piece in pieces)
    assert last == {**whole, "text_output": ""}
    page = service.admission.metrics.page()[0].decode()
    assert 'operation="v2"' not in page  # they wait for the engine, and count as `infer`


@pytest.mark.parametrize(
    ("content", "path", "status", "words"),
    [
        ({"text_input": "one"}, "/v2/models/other/generate", 404, "there is no model other"),
        ({"text_input": 1}, PATH, 422, "text_input"),
        ({"text_input": "one", "prompt": "two"}, f"{PATH}_stream", 422, "prompt"),
        ({"text_input": "one", "parameters": {"max_tokens": 0}}, f"{PATH}_stream", 422, "max_new_tokens"),
        ({"text_input": "one", "parameters": {"max_tokens": 1, "max_new_tokens": 1}}, PATH, 422, "send one of them"),
        ({"text_input": "one", "parameters": {"stream": True}}, PATH, 422, "/generate_stream"),
        ({"text_input": "one", "parameters": {"stream": False}}, f"{PATH}_stream", 422, "/generate,"),
        ({"text_input": "one", "parameters": {"timeout": 1}}, PATH, 503, "within"),
    ],
)
def test_what_is_refused_has_the_protocol_s_form(
    service: LocalService, content: Any, path: str, status: int, words: str
) -> None:
    answer = post(service, content, path)
    assert (answer.status_code, [*answer.json()]) == (status, ["error"]), answer.text
    assert words in answer.json()["error"]


def test_a_classifier_generates_nothing(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact) as service:
        answer = post(service, {"text_input": "bank"}, "/v2/models/tiny/generate")
        assert answer.status_code == 404
        assert "/v2/models/tiny/infer" in answer.json()["error"]
        assert not [path for path in service.get("/docs.json").json()["paths"] if "/generate" in path]


def test_openapi_describes_both(service: LocalService) -> None:
    described = describe_api(service.admission.manifest, Settings())
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        answers = [described["paths"][f"{model}/{name}"]["post"] for name in ("generate", "generate_stream")]
        content = [list(answer["responses"]["200"]["content"]) for answer in answers]
        assert content == [["application/json"], ["text/event-stream"]]
    parameters = described["components"]["schemas"]["GenerateRequest"]["properties"]["parameters"]["anyOf"][0]
    assert {"max_tokens", "max_new_tokens", "temperature", "timeout"} <= parameters["properties"].keys()
