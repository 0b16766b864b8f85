"""The description of the HTTP API in OpenAPI's form, for the task of the model."""

from typing import Any

from tuneport.schema.artifact import Manifest
from tuneport.tasks import task_spec

from .. import tensors

VERSION = "3.0.2"
MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
VERSION_OF_MODEL = {**MODEL, "name": "version"}
NO_CONTENT = {"description": "The status is the answer."}


def describe_api(manifest: Manifest) -> dict[str, Any]:
    """Return the content of /docs.json."""
    named = "/v2/models/{model}/versions/{version}"
    metrics = {"200": {"description": "The metrics as text."}}
    paths: dict[str, Any] = {
        "/predict": {"post": _operation("Predict.", _ref("Request"), _ref("Response"), [])},
        "/metrics": {"get": {"summary": "Metrics for Prometheus.", "responses": metrics}},
        "/v2/health/live": {"get": {"summary": "Is the server alive?", "responses": {"200": NO_CONTENT}}},
        "/v2/health/ready": {
            "get": {"summary": "Is the server ready?", "responses": {"200": NO_CONTENT, "503": NO_CONTENT}}
        },
        "/v2": {"get": _operation("The server's metadata.", None, {"type": "object"}, [])},
    }
    for path, parameters in (("/v2/models/{model}", [MODEL]), (named, [MODEL, VERSION_OF_MODEL])):
        paths[path] = {"get": _operation("The model's metadata.", None, {"type": "object"}, parameters)}
        ready = {status: NO_CONTENT for status in ("200", "404", "503")}
        paths[f"{path}/ready"] = {
            "get": {"summary": "Is the model ready?", "parameters": parameters, "responses": ready}
        }
        paths[f"{path}/infer"] = {
            "post": _operation("Predict from tensors.", _ref("InferRequest"), {"type": "object"}, parameters)
        }
    schemas = {
        "Request": _request(manifest),
        "Response": RESPONSE,
        "Error": ERROR,
        "InferRequest": _infer_request(manifest),
    }
    return {
        "openapi": VERSION,
        "info": {"title": manifest.name, "version": manifest.version, "description": f"{manifest.task} by tuneport"},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


RESPONSE = {
    "type": "object",
    "required": ["predictions", "model"],
    "properties": {
        "predictions": {"type": "array", "items": {}},
        "model": {
            "type": "object",
            "required": ["name", "version", "variant"],
            "additionalProperties": {"type": "string"},
        },
    },
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"description": "An object with code, message and remedy; below /v2 a string."},
    },
}


def _request(manifest: Manifest) -> dict[str, Any]:
    fields = tensors.fields_of(manifest)
    one: dict[str, Any] = {
        "type": "object",
        "required": [*fields],
        "properties": {field: {"type": "string"} for field in fields},
        "additionalProperties": False,
    }
    if fields == (tensors.JSON,):
        one = {}
    elif len(fields) == 1:
        one = {"oneOf": [{"type": "string"}, one]}
    parameters = task_spec(manifest.task).task_class("runtime").parameters.model_json_schema()
    parameters.pop("title", None)
    return {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "inputs": {"oneOf": [*one.get("oneOf", [one]), {"type": "array", "minItems": 1, "items": one}]},
            "parameters": {"type": "object", "properties": {name: {} for name in parameters.get("properties", {})}},
        },
    }


def _infer_request(manifest: Manifest) -> dict[str, Any]:
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"type": "string", "enum": [*tensors.fields_of(manifest)]},
            "datatype": {"type": "string", "enum": [tensors.BYTES]},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 1},
            "data": {"type": "array", "items": {"type": "string"}},
        },
    }
    count = len(tensors.fields_of(manifest))
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": tensor, "minItems": count, "maxItems": count},
        },
    }


def _operation(
    summary: str, request: dict[str, Any] | None, response: dict[str, Any], parameters: list[dict[str, Any]]
) -> dict[str, Any]:
    error = {"description": "An error.", "content": {"application/json": {"schema": _ref("Error")}}}
    statuses = (400, 401, 404, 405, 408, 413, 415, 422, 429, 500, 503)
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Success.", "content": {"application/json": {"schema": response}}},
            **{str(status): error for status in statuses},
        },
    }
    if request is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": request}}}
    return operation


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
