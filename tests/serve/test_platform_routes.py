"""Routes that clients of other servers know: Text Embeddings Inference, SageMaker and MLflow, Vertex AI."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.encoders import LABELS, tiny_encoder
from kit.engines import StalledEngine, wait_until
from kit.exports import quick_exports
from kit.serving import LocalService, assert_error, local_service
from transformers import AutoModelForSequenceClassification

from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export


@pytest.fixture(scope="module")
def classifier(tiny_artifact: Path) -> Iterator[LocalService]:
    with local_service(tiny_artifact) as service:
        yield service


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    folder = tmp_path_factory.mktemp("reranker")
    checkpoint = tiny_encoder(folder / "checkpoint")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1)
    model.classifier.weight.data *= 50
    model.save_pretrained(checkpoint)
    with quick_exports():
        export(ExportConfig(checkpoint=checkpoint, variants=("fp32",)), folder / "artifact")
    with local_service(folder / "artifact") as service:
        yield service


def post(service: LocalService, path: str, content: Any) -> httpx.Response:
    return httpx.post(f"{service.url}{path}", json=content, timeout=30)


def test_invocations_and_instances_are_predict_by_other_names(classifier: LocalService) -> None:
    expected = classifier.post(["bank", "team won"]).json()
    assert post(classifier, "/invocations", {"inputs": ["bank", "team won"]}).json() == expected
    for path in ("/predict", "/invocations"):
        assert post(classifier, path, {"instances": ["bank", "team won"]}).json() == expected
    top = post(classifier, "/predict", {"instances": [{"text": "bank"}], "parameters": {"top_k": 2}}).json()
    assert len(top["predictions"][0]) == 2
    assert_error(post(classifier, "/predict", {"instances": ["a"], "inputs": ["a"]}), 422, "inputs", "unknown_field")
    assert_error(post(classifier, "/invocations", {"instances": []}), 422, "empty list")


def test_a_ping_needs_no_key_and_says_when_the_service_stops(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact, api_keys="k") as service:
        assert service.get("/ping").status_code == 200
        assert post(service, "/invocations", {"inputs": "bank"}).status_code == 401
        service.admission.worker.is_serving = False
        assert service.get("/ping").status_code == 503


def test_tei_predict_gives_all_labels_best_first(classifier: LocalService) -> None:
    expected = httpx.post(
        f"{classifier.url}/predict", json={"inputs": ["bank", "team won"], "parameters": {"top_k": len(LABELS)}}
    ).json()["predictions"]
    assert post(classifier, "/tei/predict", {"inputs": "bank"}).json() == expected[0]
    assert post(classifier, "/tei/predict", {"inputs": ["bank"]}).json() == expected[0]
    batch = post(classifier, "/tei/predict", {"inputs": [["bank"], ["team won"]], "truncate": True}).json()
    assert batch == expected
    assert all(set(label) == {"score", "label"} for label in batch[0])


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        ({}, 422, "Tokenizer"),
        ({"inputs": 7}, 422, "Tokenizer"),
        ({"inputs": []}, 422, "Tokenizer"),
        ({"inputs": ["a", "b", "c"]}, 422, "Tokenizer"),
        ({"inputs": ["a", "b"]}, 422, "Tokenizer"),  # a pair, for a model of single texts
        ({"inputs": "a", "raw_scores": True}, 422, "Tokenizer"),
        ({"inputs": "a", "truncation_direction": "Left"}, 422, "Tokenizer"),
        ({"inputs": "bank " * 80, "truncate": False}, 400, "Validation"),
        ({"inputs": [["a"]] * 600}, 413, "Validation"),
    ],
)
def test_errors_of_tei_have_its_shape(classifier: LocalService, content: Any, status: int, kind: str) -> None:
    answer = post(classifier, "/tei/predict", content)
    assert answer.status_code == status
    assert answer.json().keys() == {"error", "error_type"}
    assert answer.json()["error_type"] == kind


def test_a_classifier_is_no_reranker(classifier: LocalService) -> None:
    for path in ("/rerank", "/tei/rerank"):
        answer = post(classifier, path, {"query": "a", "texts": ["b"]})
        assert answer.status_code == 404
        assert "reranker" in answer.json()["error"]


def test_texts_are_ranked_by_their_score_with_the_query(reranker: LocalService) -> None:
    texts = ["anna met ben", "the film won", "", "paris in the rain", "who met ben ?"]
    pairs = [{"text": "who met ben ?", "text_pair": text} for text in texts]
    scores = [each["score"] for each in reranker.post(pairs).json()["predictions"]]
    order = sorted(range(len(texts)), key=lambda i: -scores[i])
    for path in ("/rerank", "/tei/rerank"):
        body = {"query": "who met ben ?", "texts": texts, "raw_scores": True, "return_text": True}
        answer = post(reranker, path, body).json()
        assert answer == [{"index": i, "score": scores[i], "text": texts[i]} for i in order]
    scaled = post(reranker, "/rerank", {"query": "who met ben ?", "texts": texts}).json()
    assert [each["index"] for each in scaled] == order
    expected = [1 / (1 + math.exp(-scores[i])) for i in order]
    assert [each["score"] for each in scaled] == pytest.approx(expected, abs=2e-6)
    assert all(each.keys() == {"index", "score"} for each in scaled)
    assert post(reranker, "/rerank", {"query": "a", "texts": []}).status_code == 422


def test_a_cross_encoder_predicts_one_score_in_tei_s_shape(reranker: LocalService) -> None:
    [raw] = reranker.post([{"text": "a", "text_pair": "b"}]).json()["predictions"]
    answer = post(reranker, "/tei/predict", {"inputs": ["a", "b"], "raw_scores": True}).json()
    assert answer == [{"score": raw["score"], "label": "LABEL_0"}]


def test_a_refusal_of_tei_s_routes_comes_before_the_body_is_read(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact, max_concurrent_requests=1) as service:
        engine = StalledEngine.of(service.runner, stalled=True)
        first = service.post_in_background()
        wait_until(lambda: engine.calls)
        answer = httpx.post(f"{service.url}/tei/predict", content=b"{")
        engine.resume()
        first.join()
    assert answer.status_code == 429
    assert answer.json()["error_type"] == "Overloaded"
    assert answer.headers["retry-after"] == "1"


def test_the_description_has_the_routes_that_are_for_the_model(
    classifier: LocalService, reranker: LocalService
) -> None:
    described = [set(service.get("/docs.json").json()["paths"]) for service in (classifier, reranker)]
    assert all({"/invocations", "/ping", "/tei/predict"} <= paths for paths in described)
    assert ["/rerank" in paths for paths in described] == [False, True]
