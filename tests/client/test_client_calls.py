"""Predictions, explanations, metadata and errors of both clients, over HTTP and gRPC."""

from pathlib import Path
from typing import Any

import pytest
from kit.clients import TEXTS, Call
from kit.servers import KEY

import tuneport
from tuneport import errors
from tuneport.client import Predictions
from tuneport.errors import TuneportError
from tuneport.runtime.predictor import Predictor
from tuneport.schema.artifact import Manifest
from tuneport.stages.serve.process import free_port


def test_predictions_are_those_of_the_artifact(
    call: Call, address: str, tiny_artifact: Path, manifest: Manifest
) -> None:
    expected = Predictor(tiny_artifact, "fp32").predict(TEXTS, {"top_k": 2})
    answer = call(address, "predict", TEXTS, {"top_k": 2}, api_key=KEY, model="tiny")
    assert isinstance(answer, Predictions)
    assert len(answer) == len(TEXTS)
    for ours, theirs in zip(answer, expected, strict=True):
        assert [each["label"] for each in ours] == [each["label"] for each in theirs]
        assert [each["score"] for each in ours] == pytest.approx([each["score"] for each in theirs], abs=1e-5)
    assert (answer[-1], answer[:2]) == (answer.values[-1], answer.values[:2])
    assert (answer.model.name, answer.model.version) == ("tiny", manifest.version)
    assert answer.model.variant == (None if address.startswith("grpc") else "fp32")
    assert len(answer.request_id) == 32


def test_explanations_are_the_artifact_s(call: Call, address: str, tiny_artifact: Path) -> None:
    (expected,) = Predictor(tiny_artifact, "fp32").predict(["the bank fell"], {"explain": True})
    (ours,) = call(address, "explain", ["the bank fell"], api_key=KEY, model="tiny")
    assert [each["text"] for each in ours["explanation"]] == [each["text"] for each in expected["explanation"]]
    assert [each["text"] for each in ours["explanation"]] == ["the", "bank", "fell"]


def test_metadata_and_health(call: Call, address: str, manifest: Manifest) -> None:
    metadata = call(address, "metadata", api_key=KEY, model="tiny")
    assert (metadata.name, metadata.versions) == ("tiny", (manifest.version,))
    assert [(each.name, each.datatype, each.shape) for each in metadata.inputs] == [("text", "BYTES", (-1,))]
    assert [each.name for each in metadata.outputs] == ["label", "score", "json"]
    assert call(address, "is_live", model="tiny") is True
    assert call(address, "is_ready", model="tiny") is True
    if address.startswith("http"):
        assert call(address, "metadata", api_key=KEY) == metadata


def test_an_error_is_the_exception_that_the_service_raised(call: Call, address: str) -> None:
    with pytest.raises(errors.Unauthenticated, match="API key") as caught:
        call(address, "predict", ["a"], model="tiny")
    assert caught.value.code == "unauthenticated"
    assert "x-api-key" in caught.value.remedy
    assert caught.value.request_id
    with pytest.raises(errors.InputError, match="top_k"):
        call(address, "predict", ["a"], {"top_k": "many"}, api_key=KEY, model="tiny")
    # gRPC has one status for both.
    with pytest.raises(errors.InputError if address.startswith("grpc") else errors.PayloadTooLarge) as too_large:
        call(address, "predict", ["a"] * 600, api_key=KEY, model="tiny")
    assert too_large.value.code == "too_many_inputs"
    for method, *arguments in (("metadata",), ("predict", ["a"])):
        with pytest.raises(errors.NotFound, match="no model other"):
            call(address, method, *arguments, api_key=KEY, model="other")


def test_what_cannot_be_sent_is_refused_before(call: Call, address: str) -> None:
    with pytest.raises(errors.InputError, match="a list of inputs"):
        call(address, "predict", "one text", api_key=KEY, model="tiny")
    with pytest.raises(errors.InputError, match="not JSON"):
        call(address, "predict", [object()], api_key=KEY, model="tiny")
    if address.startswith("grpc"):
        with pytest.raises(errors.InputError, match="'stop' is of type list"):
            call(address, "predict", ["a"], {"stop": ["a"]}, api_key=KEY, model="tiny")
        with pytest.raises(errors.InputError, match="no streams over gRPC"):
            tuneport.Client(address, model="tiny").stream("a")


@pytest.mark.parametrize(
    ("url", "settings", "words"),
    [
        ("127.0.0.1:3000", {}, "no address"),
        ("ftp://host", {}, "no address"),
        ("http://", {}, "no address"),
        ("http://host:port", {}, "no address"),
        ("grpc://host", {"model": "tiny"}, "no address"),
        ("grpc://127.0.0.1:3001", {}, "without a model's name"),
    ],
)
def test_a_wrong_address_is_refused(url: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TuneportError, match=words):
        tuneport.Client(url, **settings)


@pytest.mark.parametrize("settings", [{"timeout_s": 0}, {"timeout_s": float("inf")}, {"max_retries": -1}])
def test_wrong_limits_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        tuneport.Client(**settings)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_service_that_is_not_there(call: Call, scheme: str) -> None:
    address = f"{scheme}://127.0.0.1:{free_port()}"
    with pytest.raises(errors.Unavailable, match="cannot be reached") as caught:
        call(address, "predict", ["a"], model="tiny", max_retries=1)
    assert "start the service" in caught.value.remedy
    assert call(address, "is_ready", model="tiny") is False
