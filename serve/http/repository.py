"""Triton's model repository extension over HTTP: load and unload versions of models."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.errors import InputError

from ..json_text import parse_json
from ..models.host import ModelHost
from ..models.requests import host_for, read_options, read_version
from .requests import frame_of, read_body
from .responses import json_response


async def load(request: Request) -> Response:
    """Load a version, prove it, and give it its traffic."""
    host = _host(request)
    options = read_options(await _parameters(request))
    return json_response(await host.load(request.path_params["model"], options))


async def unload(request: Request) -> Response:
    """Unload a version, or a model."""
    host = _host(request)
    await host.unload(request.path_params["model"], read_version(await _parameters(request)))
    return json_response({})


def _host(request: Request) -> ModelHost:
    return host_for(request.app.state.host, frame_of(request).headers)


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
