"""Text Embeddings Inference's routes for classifiers and rerankers: `/rerank`, and `/predict` below `/tei`."""

import math
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.errors import InputError, NotFound
from tuneport.schema.artifact import Manifest

from ..admission import AdmissionController
from .paths import RERANK_PATHS, TEI_PREDICT
from .requests import admission_of, frame_of, read_checked_body, unless_disconnected
from .responses import json_response
from .tei_schema import REGRESSION, PredictRequest, RerankRequest, TeiRequest, predicts, reranks

LABEL = "LABEL_0"
"""transformers' name for the one output of a regression."""


async def predict(request: Request) -> Response:
    """Answer with all labels of each input, best first."""
    admission = admission_of(request)
    if not predicts(admission.manifest):
        raise _not_offered(admission.manifest, "classifiers")
    body = await read_checked_body(request, PredictRequest, InputError)
    inputs = [_as_input(*pair) for pair in body.pairs()]
    is_regression = admission.manifest.task == REGRESSION
    if body.raw_scores and not is_regression:
        raise InputError("raw_scores of a classifier", "leave it out: scores are probabilities")
    parameters = None if is_regression else {"top_k": max(1, len(admission.manifest.labels))}
    predictions = await _infer(request, body, inputs, parameters)
    answers = [
        [{"score": _scaled(each["score"], body), "label": LABEL}]
        if is_regression
        else [{"score": label["score"], "label": label["label"]} for label in each]
        for each in predictions
    ]
    return json_response(answers if body.is_batch else answers[0])


async def rerank(request: Request) -> Response:
    """Score each text with the query, best first."""
    admission = admission_of(request)
    if not reranks(admission.manifest):
        raise _not_offered(admission.manifest, "rerankers: models of one score for a pair of texts")
    body = await read_checked_body(request, RerankRequest, InputError)
    inputs = [_as_input(body.query, text) for text in body.texts]
    predictions = await _infer(request, body, inputs, None)
    ranks = [
        {"index": index, "score": _scaled(prediction["score"], body)} | ({"text": text} if body.return_text else {})
        for index, (text, prediction) in enumerate(zip(body.texts, predictions, strict=True))
    ]
    return json_response(sorted(ranks, key=lambda rank: -rank["score"]))


routes = [
    Route(TEI_PREDICT, predict, methods=["POST"]),
    *(Route(path, rerank, methods=["POST"]) for path in RERANK_PATHS),
]


def _not_offered(manifest: Manifest, models: str) -> NotFound:
    return NotFound(f"this path is for {models}, and the task here is {manifest.task}", "POST to /predict")


async def _infer(request: Request, body: TeiRequest, inputs: list[Any], parameters: Any) -> list[Any]:
    """Return the predictions; scores are checked to be single ones."""
    admission: AdmissionController = admission_of(request)
    frame_of(request).inputs = inputs
    work = admission.infer(inputs, parameters, allow_truncation=body.truncate is not False)
    predictions = [result.prediction for result in await unless_disconnected(request, work)]
    if any(isinstance(each, dict) and isinstance(each["score"], list) for each in predictions):
        raise _not_offered(admission.manifest, "models of one score")
    return predictions


def _as_input(text: str, text_pair: str | None = None) -> Any:
    return text if text_pair is None else {"text": text, "text_pair": text_pair}


def _scaled(score: float, body: TeiRequest) -> float:
    """Return a score as it is, or its sigmoid; stable for large |scores|."""
    return score if body.raw_scores else round(0.5 * (1 + math.tanh(0.5 * score)), 6)
