"""Triton's model repository extension over HTTP: load and unload versions of models."""

from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.errors import InputError, NotFound

from ..json_text import parse_json
from ..models.host import LoadOptions, ModelHost
from .requests import frame_of, models_of, read_body
from .responses import json_response


async def load(request: Request) -> Response:
    """Load a version, prove it, and give it its traffic."""
    host = _host(request)
    parameters = await _parameters(request)
    try:
        options = LoadOptions.model_validate(parameters)
    except ValidationError as error:
        wrong = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise InputError(f"wrong parameters: {wrong[:300]}", f"known: {', '.join(LoadOptions.model_fields)}") from error
    version = await host.load(request.path_params["model"], options)
    return json_response(version.model)


async def unload(request: Request) -> Response:
    """Unload a version, or a model."""
    host = _host(request)
    version = (await _parameters(request)).get("version")
    if not isinstance(version, str | None):
        raise InputError("the version is no text", 'send {"parameters": {"version": "…"}}')
    await host.unload(request.path_params["model"], version)
    return json_response({})


def _host(request: Request) -> ModelHost:
    """Return what loads models; raises Forbidden and Unauthenticated without an administrator's key."""
    headers = frame_of(request).headers
    models_of(request).worker.check_admin_key(headers.get("authorization"), headers.get("x-api-key"))
    host: ModelHost | None = request.app.state.host
    if host is None:
        raise NotFound("this service loads no models", "start it with `tuneport serve`", code="not_routed")
    return host


async def _parameters(request: Request) -> dict[str, Any]:
    body = await read_body(request)
    content = parse_json(body) if body else {}
    parameters = content.get("parameters") or {} if isinstance(content, dict) else None
    if not isinstance(parameters, dict):
        raise InputError("the body has no parameters", 'send {"parameters": {…}}, or no body')
    return parameters


routes = [
    Route("/v2/repository/models/{model}/load", load, methods=["POST"]),
    Route("/v2/repository/models/{model}/unload", unload, methods=["POST"]),
]
