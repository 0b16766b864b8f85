"""Schemas of requests and responses in OpenAPI's form, for the task of the model and the settings of the service."""

from typing import Any

from tuneport.runtime.tasks.inputs import MAX_ITEMS
from tuneport.schema.artifact import Manifest
from tuneport.tasks import task_spec

from .. import tensors
from ..open_inference import PROTOCOL_PARAMETERS
from ..settings import Settings

TEXT = {"type": "string"}
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
GENERATED = {
    "type": "object",
    "required": ["model_name", "model_version", "text_output"],
    "properties": {"model_name": TEXT, "model_version": TEXT, "id": TEXT, "text_output": TEXT},
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"description": "An object with code, message and remedy; below /v2 a string."},
    },
}


def describe_request(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    """Describe the body of `/predict`."""
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


def describe_infer_request(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    """Describe the body of `/v2/models/{model}/infer`."""
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
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": TEXT,
            "parameters": _v2_parameters(manifest),
            "inputs": {"type": "array", "items": tensor, "minItems": len(names), "maxItems": len(names)},
        },
    }


def describe_generate_request(manifest: Manifest) -> dict[str, Any]:
    """Describe the body of `/v2/models/{model}/generate` and `/generate_stream`."""
    parameters = _v2_parameters(manifest)
    max_tokens = {"type": "integer", "minimum": 1, "description": "OpenAI's name of max_new_tokens; send one of them."}
    parameters["properties"]["max_tokens"] = max_tokens
    return {
        "type": "object",
        "required": ["text_input"],
        "additionalProperties": False,
        "properties": {"id": TEXT, "text_input": TEXT, "parameters": {"anyOf": [parameters, {"type": "null"}]}},
    }


def _v2_parameters(manifest: Manifest) -> dict[str, Any]:
    """Describe the `parameters` of the paths below /v2: the task's, and the protocol's."""
    parameters = _parameters(manifest)
    protocols: dict[str, Any] = {name: {} for name in sorted(PROTOCOL_PARAMETERS - {"timeout"})}
    timeout = {"type": "integer", "minimum": 0, "description": "Microseconds."}
    properties = {**parameters.get("properties", {}), **protocols, "timeout": timeout}
    return {**parameters, "properties": properties, "maxProperties": MAX_ITEMS}


def _parameters(manifest: Manifest) -> dict[str, Any]:
    """Describe the task's `parameters`, as they are checked."""
    schema = dict(task_spec(manifest.task).task_class("runtime").parameters.model_json_schema())
    schema.pop("title", None)
    return schema
