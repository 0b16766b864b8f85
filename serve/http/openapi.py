"""The description of the HTTP API in OpenAPI's form, for the task of the model and the settings of the service."""

from typing import Any

from tuneport.schema.artifact import Manifest

from ..settings import Settings
from . import tei_schema
from .generate import generates
from .openapi_operations import errors, event_operation, health, operation, ping, ref
from .openapi_schema import (
    ERROR,
    GENERATED,
    INDEX,
    RESPONSE,
    STATISTICS,
    TEXT,
    describe_generate_request,
    describe_infer_request,
    describe_request,
)
from .paths import PING, PREDICT_PATHS, RERANK_PATHS, TEI_PREDICT

VERSION = "3.1.0"
MODEL = {"name": "model", "in": "path", "required": True, "schema": TEXT}
VERSION_OF_MODEL = {**MODEL, "name": "version"}
MODEL_ERRORS = (404,)
BODY_ERRORS = (400, 408, 413, 415, 422, 429, 500, 503)
SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def describe_api(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    """Return the content of /docs.json."""
    metrics = {"200": {"description": "The metrics.", "content": {"text/plain": {"schema": TEXT}}}}
    paths: dict[str, Any] = {
        **{
            path: {"post": operation("Predict.", ref("Response"), BODY_ERRORS, body=ref("Request"))}
            for path in PREDICT_PATHS
        },
        PING: {"get": ping()},
        **_tei_paths(manifest),
        "/v2/health/live": {"get": health("live", "Is the server alive?")},
        "/v2/health/ready": {"get": health("ready", "Is the server ready?")},
        "/evidence": {"get": operation("What proves the variant that serves.", {"type": "object"})},
        "/v2": {"get": operation("The server's metadata.", {"type": "object"})},
        "/v2/repository/index": _index(),
        "/v2/models/stats": {"get": operation("The counts and times of all models.", STATISTICS)},
        "/v2/repository/models/{model}/load": _change("Load a version of a model."),
        "/v2/repository/models/{model}/unload": _change("Unload a version, or a model."),
        **_predict_paths(),
        **_model_paths(manifest, "/v2/models/{model}", [MODEL]),
        **_model_paths(manifest, "/v2/models/{model}/versions/{version}", [MODEL, VERSION_OF_MODEL]),
    }
    if not settings.metrics_port:
        paths["/metrics"] = {"get": {"summary": "Metrics for Prometheus.", "responses": metrics | errors((401, 429))}}
    has_keys = bool(settings.api_keys or settings.api_keys_file)
    return {
        "openapi": VERSION,
        "info": {"title": manifest.name, "version": manifest.version, "description": f"{manifest.task} by tuneport"},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": {
                "Request": describe_request(manifest, settings),
                "Response": RESPONSE,
                "Error": ERROR,
                "InferRequest": describe_infer_request(manifest, settings),
                **({"GenerateRequest": describe_generate_request(manifest)} if generates(manifest) else {}),
            },
            **({"securitySchemes": SECURITY} if has_keys else {}),
        },
        **({"security": [{name: []} for name in SECURITY]} if has_keys else {}),
    }


def _index() -> dict[str, Any]:
    """Describe the index of models, which a body may restrict to those that are ready."""
    summary, body = "The models of the service.", {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    post = operation(summary, INDEX, BODY_ERRORS, body=body)
    post["requestBody"]["required"] = False
    return {"get": operation(summary, INDEX), "post": post}


def _change(summary: str) -> dict[str, Any]:
    """Describe an operation of the model repository."""
    statuses = (403, 404, 409, *BODY_ERRORS)
    return {"parameters": [MODEL], "post": operation(summary, {"type": "object"}, statuses, body={"type": "object"})}


def _predict_paths() -> dict[str, Any]:
    """Describe the routes of tuneport's own contract that name the model."""
    statuses = (*MODEL_ERRORS, *BODY_ERRORS)
    predict = operation("Predict with a model.", ref("Response"), statuses, body=ref("Request"))
    return {
        "/models/{model}/predict": {"parameters": [MODEL], "post": predict},
        "/models/{model}/versions/{version}/predict": {"parameters": [MODEL, VERSION_OF_MODEL], "post": predict},
    }


def _model_paths(manifest: Manifest, path: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """Describe the routes of the Open Inference Protocol, and Triton's, that name the model."""
    ready = health("ready", "Is the model ready?")
    ready["responses"] |= errors((401, 404, 429))
    statuses, anything = (*MODEL_ERRORS, *BODY_ERRORS), {"type": "object"}
    operations = {
        path: {"get": operation("The model's metadata.", anything, MODEL_ERRORS)},
        f"{path}/ready": {"get": ready},
        f"{path}/config": {"get": operation("The model's tensors, limits and execution.", anything, MODEL_ERRORS)},
        f"{path}/stats": {"get": operation("The model's counts and times.", STATISTICS, MODEL_ERRORS)},
        f"{path}/infer": {"post": operation("Predict from tensors.", anything, statuses, body=ref("InferRequest"))},
    }
    if generates(manifest):
        body = ref("GenerateRequest")
        operations |= {
            f"{path}/generate": {"post": operation("Generate a text.", GENERATED, statuses, body=body)},
            f"{path}/generate_stream": {"post": event_operation("Generate a text in pieces.", statuses, body=body)},
        }
    return {name: {"parameters": parameters, **each} for name, each in operations.items()}


def _tei_paths(manifest: Manifest) -> dict[str, Any]:
    """Describe the routes of Text Embeddings Inference that are for the model."""
    statuses = (*MODEL_ERRORS, *BODY_ERRORS)
    ranks = {"type": "array", "items": {"type": "object", "required": ["index", "score"]}}
    paths: dict[str, Any] = {}
    if tei_schema.predicts(manifest):
        body, summary = tei_schema.describe_predict(manifest), "Predict all labels, best first."
        paths[TEI_PREDICT] = {"post": operation(summary, {"type": "array"}, statuses, body=body)}
    if tei_schema.reranks(manifest):
        rank = operation("Rank texts.", ranks, statuses, body=tei_schema.RerankRequest.model_json_schema())
        paths |= {path: {"post": rank} for path in RERANK_PATHS}
    return paths
