"""Text Embeddings Inference's routes for classifiers and rerankers: `/rerank`, and `/predict` below `/tei`."""

import math
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.errors import InputError, NotFound
from tuneport.runtime.tasks.inputs import check_number
from tuneport.schema.artifact import Manifest

from ..admission import AdmissionController
from ..json_text import parse_json
from .requests import admission_of, frame_of, read_body, unless_disconnected
from .responses import json_response

Body = TypeVar("Body", bound="TeiRequest")
REGRESSION, CLASSIFICATION = "regression", "text-classification"
LABEL = "LABEL_0"
"""transformers' name for the one output of a regression."""


class TeiRequest(BaseModel):
    """What both requests have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    raw_scores: bool = False
    """Return outputs as they are, where a score is otherwise between 0 and 1; not for classifiers."""
    truncate: bool | None = None
    """Whether to truncate what is longer than the model's maximum, which is the default, or to refuse it."""
    truncation_direction: Literal["right", "Right"] = "right"


class PredictRequest(TeiRequest):
    """The body of `/tei/predict`."""

    inputs: str | list[str] | list[list[str]]
    """A text, a list with a text or a pair of texts, or a list of such lists."""

    def pairs(self) -> list[tuple[str, ...]]:
        """Return the inputs, each a text or a pair; raises InputError for other numbers of texts."""
        if isinstance(self.inputs, str):
            return [(self.inputs,)]
        batches = self.inputs if self.is_batch else [self.inputs]
        inputs = [tuple(map(str, each)) for each in batches]
        if wrong := [each for each in inputs if len(each) not in (1, 2)]:
            raise InputError(f"an input has {len(wrong[0])} texts", "send one text or a pair of texts in each list")
        return inputs

    @property
    def is_batch(self) -> bool:
        """Whether the answer is a list for each input."""
        return isinstance(self.inputs, list) and all(isinstance(each, list) for each in self.inputs)


class RerankRequest(TeiRequest):
    """The body of `/rerank`."""

    query: str
    texts: list[str] = Field(min_length=1)
    return_text: bool = False


async def predict(request: Request) -> Response:
    """Answer with all labels of each input, best first."""
    admission = admission_of(request)
    if not predicts(admission.manifest):
        raise _not_offered(admission.manifest, "classifiers")
    body = await _read_request(request, PredictRequest)
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
    body = await _read_request(request, RerankRequest)
    inputs = [_as_input(body.query, text) for text in body.texts]
    predictions = await _infer(request, body, inputs, None)
    ranks = [
        {"index": index, "score": _scaled(prediction["score"], body)} | ({"text": text} if body.return_text else {})
        for index, (text, prediction) in enumerate(zip(body.texts, predictions, strict=True))
    ]
    return json_response(sorted(ranks, key=lambda rank: -rank["score"]))


routes = [
    Route("/tei/predict", predict, methods=["POST"]),
    Route("/tei/rerank", rerank, methods=["POST"]),
    Route("/rerank", rerank, methods=["POST"]),
]


def predicts(manifest: Manifest) -> bool:
    """Tell whether `/tei/predict` is for a model."""
    return manifest.task == CLASSIFICATION or (manifest.task == REGRESSION and len(manifest.labels) <= 1)


def describe_predict(manifest: Manifest) -> dict[str, Any]:
    """Return the schema of the body of `/tei/predict`: what of `PredictRequest` a model takes."""
    processing, schema = manifest.processing, PredictRequest.model_json_schema()
    text, most = {"type": "string"}, 2 if processing.accepts_pairs else 1
    fewest = 1 if processing.accepts_single_texts else most
    texts = {"type": "array", "items": text, "minItems": fewest, "maxItems": most}
    batch = {"type": "array", "items": texts, "minItems": 1}
    fields = schema["properties"]
    fields["inputs"]["anyOf"] = [*([text] if fewest == 1 else []), texts, batch]
    if manifest.task != REGRESSION:
        fields["raw_scores"]["enum"] = [False]
    return schema


def reranks(manifest: Manifest) -> bool:
    """Tell whether `/rerank` is for a model."""
    return manifest.task == REGRESSION and manifest.processing.accepts_pairs and len(manifest.labels) <= 1


def _not_offered(manifest: Manifest, models: str) -> NotFound:
    return NotFound(f"this path is for {models}, and the task here is {manifest.task}", "POST to /predict")


async def _read_request(request: Request, kind: type[Body]) -> Body:
    """Read and check the body."""
    raw = await read_body(request)
    content = await admission_of(request).inference.lanes.run_if_large(len(raw), parse_json, raw)
    if isinstance(content, dict):
        check_number(len(content), "fields")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        wrong = ", ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors()[:3])
        raise InputError(f"wrong request: {wrong[:500]}", f"known fields: {', '.join(kind.model_fields)}") from error


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
