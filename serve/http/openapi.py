"""The description of the HTTP API in OpenAPI's form, for the task of the model and the settings of the service."""

from typing import Any

from tuneport.runtime.tasks.inputs import MAX_ITEMS
from tuneport.schema.artifact import Manifest
from tuneport.tasks import task_spec

from .. import tensors
from ..open_inference import PROTOCOL_PARAMETERS
from ..settings import Settings
from . import tei

VERSION = "3.1.0"
TEXT = {"type": "string"}
MODEL = {"name": "model", "in": "path", "required": True, "schema": TEXT}
VERSION_OF_MODEL = {**MODEL, "name": "version"}
HEALTH = {
    "live": {"type": "object", "required": ["live"], "properties": {"live": {"type": "boolean"}}},
    "ready": {"type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}}},
}
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
        "/predict": {"post": _operation("Predict.", _ref("Response"), BODY_ERRORS, body=_ref("Request"))},
        "/invocations": {"post": _operation("Predict.", _ref("Response"), BODY_ERRORS, body=_ref("Request"))},
        "/ping": {"get": _ping()},
        **_tei_paths(manifest),
        "/v2/health/live": {"get": _health("live", "Is the server alive?")},
        "/v2/health/ready": {"get": _health("ready", "Is the server ready?")},
        "/evidence": {"get": _operation("What proves the variant that serves.", {"type": "object"})},
        "/v2": {"get": _operation("The server's metadata.", {"type": "object"})},
        "/v2/repository/index": {method: _operation("The models of the service.", INDEX) for method in ("get", "post")},
        "/v2/models/stats": {"get": _operation("The counts and times of all models.", STATISTICS)},
        **_model_paths("/v2/models/{model}", [MODEL]),
        **_model_paths("/v2/models/{model}/versions/{version}", [MODEL, VERSION_OF_MODEL]),
    }
    if not settings.metrics_port:
        paths["/metrics"] = {"get": {"summary": "Metrics for Prometheus.", "responses": metrics | _errors((401, 429))}}
    has_keys = bool(settings.api_keys or settings.api_keys_file)
    return {
        "openapi": VERSION,
        "info": {"title": manifest.name, "version": manifest.version, "description": f"{manifest.task} by tuneport"},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": {
                "Request": _request(manifest, settings),
                "Response": RESPONSE,
                "Error": ERROR,
                "InferRequest": _infer_request(manifest, settings),
            },
            **({"securitySchemes": SECURITY} if has_keys else {}),
        },
        **({"security": [{name: []} for name in SECURITY]} if has_keys else {}),
    }


RESPONSE = {
    "type": "object",
    "required": ["predictions", "model"],
    "properties": {
        "predictions": {"type": "array", "items": {}},
        "model": {
            "type": "object",
            "required": ["name", "version", "variant"],
            "additionalProperties": TEXT,
        },
    },
}
INDEX = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "version", "state", "reason"],
        "additionalProperties": TEXT,
    },
}
STATISTICS = {
    "type": "object",
    "required": ["model_stats"],
    "properties": {"model_stats": {"type": "array", "items": {"type": "object", "required": ["name", "version"]}}},
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"description": "An object with code, message and remedy; below /v2 a string."},
    },
}


def _parameters(manifest: Manifest) -> dict[str, Any]:
    """Describe the task's `parameters`, as they are checked."""
    schema = dict(task_spec(manifest.task).task_class("runtime").parameters.model_json_schema())
    schema.pop("title", None)
    return schema


def _request(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    fields = tensors.fields_of(manifest)
    text = TEXT
    one: dict[str, Any] = {
        "type": "object",
        "required": [*fields],
        "properties": {field: text for field in fields},
        "additionalProperties": False,
    }
    forms = [one]
    if fields == (tensors.JSON,):
        forms = [{}]
    elif len(fields) == 1:
        forms = [text, one]
    several = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": forms},
        "description": f"At most {settings.max_client_batch_size} inputs of {settings.max_chars} characters together; "
        "more are refused with 413.",
    }
    return {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "inputs": {"anyOf": [*forms, several]},
            "parameters": {"anyOf": [_parameters(manifest), {"type": "null"}]},
        },
    }


def _infer_request(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    limit = settings.max_client_batch_size
    names = tensors.fields_of(manifest)
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {**TEXT, "enum": [*names]},
            "datatype": {**TEXT, "enum": [tensors.BYTES]},
            "shape": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1},
                "description": f"[N], at most {limit}; more are refused with 413.",
                "minItems": 1,
                "maxItems": 1,
            },
            "data": {"type": "array", "items": TEXT, "minItems": 1},
        },
    }
    parameters = _parameters(manifest)
    protocols: dict[str, Any] = {name: {} for name in sorted(PROTOCOL_PARAMETERS - {"timeout"})}
    timeout = {"type": "integer", "minimum": 0, "description": "Microseconds."}
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": TEXT,
            "parameters": {
                **parameters,
                "properties": {**parameters.get("properties", {}), **protocols, "timeout": timeout},
                "maxProperties": MAX_ITEMS,
            },
            "inputs": {"type": "array", "items": tensor, "minItems": len(names), "maxItems": len(names)},
        },
    }


def _model_paths(path: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """Describe the routes of the Open Inference Protocol, and Triton's, that name the model."""
    ready = _health("ready", "Is the model ready?")
    ready["responses"] |= _errors((401, 404, 429))
    errors, anything = (*MODEL_ERRORS, *BODY_ERRORS), {"type": "object"}
    operations = {
        path: {"get": _operation("The model's metadata.", anything, MODEL_ERRORS)},
        f"{path}/ready": {"get": ready},
        f"{path}/config": {"get": _operation("The model's tensors, limits and execution.", anything, MODEL_ERRORS)},
        f"{path}/stats": {"get": _operation("The model's counts and times.", STATISTICS, MODEL_ERRORS)},
        f"{path}/infer": {"post": _operation("Predict from tensors.", anything, errors, body=_ref("InferRequest"))},
    }
    return {name: {"parameters": parameters, **each} for name, each in operations.items()}


def _tei_paths(manifest: Manifest) -> dict[str, Any]:
    """Describe the routes of Text Embeddings Inference that are for the model."""
    errors = (*MODEL_ERRORS, *BODY_ERRORS)
    ranks = {"type": "array", "items": {"type": "object", "required": ["index", "score"]}}
    paths: dict[str, Any] = {}
    if tei.predicts(manifest):
        body, summary = tei.describe_predict(manifest), "Predict all labels, best first."
        paths["/tei/predict"] = {"post": _operation(summary, {"type": "array"}, errors, body=body)}
    if tei.reranks(manifest):
        rank = _operation("Rank texts.", ranks, errors, body=tei.RerankRequest.model_json_schema())
        paths |= {path: {"post": rank} for path in ("/rerank", "/tei/rerank")}
    return paths


def _ping() -> dict[str, Any]:
    responses = {"200": {"description": "Requests are accepted."}, "503": {"description": "They are not."}}
    return {"summary": "Are requests accepted?", "responses": responses, "security": []}


def _health(state: str, summary: str) -> dict[str, Any]:
    content = {"content": {"application/json": {"schema": HEALTH[state]}}}
    responses = {"200": {"description": "Yes.", **content}}
    if state == "ready":
        responses["503"] = {"description": "No.", **content}
    return {"summary": summary, "responses": responses, "security": []}


def _operation(
    summary: str, response: dict[str, Any], errors: tuple[int, ...] = (), *, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    success = {"200": {"description": "Success.", "content": {"application/json": {"schema": response}}}}
    operation: dict[str, Any] = {"summary": summary, "responses": success | _errors((401, 429, *errors))}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    error = {"description": "An error.", "content": {"application/json": {"schema": _ref("Error")}}}
    return {str(status): error for status in sorted({*statuses})}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
