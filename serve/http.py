"""The HTTP door: `POST /predict`, Open Inference Protocol, /metrics. BentoML mounts it beside /livez and /readyz."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from serve.batcher import Overloaded
from serve.desk import Desk
from serve.errors import Refused
from serve.guard import CLIENT_LEFT, Guard, handle
from serve.openapi import describe_api
from serve.playground.routes import routes as playground
from serve.streaming import stream_answer
from serve.tasks.inputs import InputError
from serve.uploads import is_upload, read_upload

Answer = TypeVar("Answer")

BENTOML_S = ("/", "/static_content")
"""Paths of BentoML's own page, which the catch-all leaves to it."""


def create_app(desk: Desk, origins: list[str] | None = None) -> Starlette:
    """Make the application in front of a desk; `origins` may call it from their pages."""
    from serve.openai import routes as openai_routes
    from serve.protocol.http import routes as protocol_routes

    cors = [Middleware(CORSMiddleware, allow_origins=origins or [], allow_methods=["*"], allow_headers=["*"])]
    app = Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            *protocol_routes,
            *openai_routes,
            *playground,
            Route("/metrics", metrics),
            Route("/docs.json", docs),
            Elsewhere("/{path:path}", elsewhere, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ],
        middleware=[*(cors if origins else []), Middleware(Guard)],
        exception_handlers={
            Refused: handle,
            InputError: handle,
            Overloaded: handle,
            ClientDisconnect: _client_left,
            HTTPException: _not_routed,
        },
    )
    app.state.desk = desk
    return app


async def predict(request: Request) -> Response:
    """`{"inputs": X, "parameters": {…}}` → `{"predictions": […], "model": {…}}`, in order and number."""
    desk: Desk = request.app.state.desk
    body, content_type = await read_body(request), request.headers.get("content-type", "")
    inputs, parameters = read_upload(content_type, body) if is_upload(content_type) else _read_request(body)
    request.state.inputs = inputs
    if isinstance(parameters, dict) and parameters.get("stream") is True:
        return await stream_answer(desk, inputs, parameters)
    predictions = await unless_left(request, desk.answer(inputs, parameters))
    return json_answer({"predictions": predictions, "model": desk.predictor.describe()})


async def metrics(request: Request) -> Response:
    """Answer with the figures for Prometheus, unless they have a port of their own."""
    desk: Desk = request.app.state.desk
    if desk.settings.metrics_port:
        raise HTTPException(404, f"the metrics are on port {desk.settings.metrics_port}")
    page, content_type = desk.metrics.page()
    return Response(page, headers={"Content-Type": content_type})


async def docs(request: Request) -> Response:
    """Describe the HTTP door in OpenAPI's form."""
    desk: Desk = request.app.state.desk
    return json_answer(describe_api(desk.predictor.manifest))


async def read_body(request: Request) -> bytes:
    """Read the body in time, and no more of it than is allowed, whatever its Content-Length claims."""
    settings = request.app.state.desk.settings
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "encoded", "the body is compressed", "send it without Content-Encoding")
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_body_bytes:
                    problem = f"the body has over {settings.max_body_bytes} bytes"
                    raise Refused(413, "body_too_large", problem, "send several smaller requests")
    except TimeoutError:
        problem = f"the body took longer than {settings.body_timeout_s:g} s"
        raise Refused(408, "slow_body", problem, "send it faster, or less of it") from None
    return bytes(body)


async def unless_left(request: Request, answering: Awaitable[Answer]) -> Answer:
    """Wait for an answer; when the client goes away it is cancelled, and ClientDisconnect raised."""
    task, has_left = asyncio.current_task(), False
    assert task is not None

    def cancel(_: Any) -> None:
        nonlocal has_left
        has_left = True
        task.cancel()

    leaving = asyncio.ensure_future(_disconnected(request))
    leaving.add_done_callback(cancel)
    try:
        return await answering
    except asyncio.CancelledError:
        if has_left:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        leaving.remove_done_callback(cancel)
        leaving.cancel()


def json_answer(content: Any) -> Response:
    """Answer 200 with JSON."""
    return Response(orjson.dumps(content), media_type="application/json")


class Elsewhere(Route):
    """Every path that nobody else has."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Leave BentoML's page alone."""
        path = scope["path"]
        if path == BENTOML_S[0] or path.startswith(BENTOML_S[1:]):
            return Match.NONE, {}
        return super().matches(scope)


async def elsewhere(request: Request) -> Response:
    """Answer 405 for a path that has other methods, else 404."""
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is Match.PARTIAL:
            methods = ", ".join(sorted((route.methods or set()) - {"HEAD"}))
            raise HTTPException(405, f"send {methods}", {"Allow": methods})
    raise HTTPException(404, "no such path")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read_request(body: bytes) -> tuple[list[Any], Any]:
    """Check the envelope of a request; the inputs themselves are the task's to check."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, "not_json", f"the body is not JSON: {error}", 'send {"inputs": […]} as UTF-8') from error
    if not isinstance(content, dict) or "inputs" not in content:
        raise Refused(422, "no_inputs", 'the body is not an object with "inputs"', 'send {"inputs": […]}')
    if unknown := sorted(content.keys() - {"inputs", "parameters"}):
        raise Refused(422, "unknown_field", f"unknown fields {unknown}"[:200], 'send "inputs" and "parameters"')
    inputs = content["inputs"]
    return inputs if isinstance(inputs, list) else [inputs], content.get("parameters")


async def _client_left(request: Request, _: Exception) -> Response:
    """Nobody reads this; the status is for metrics and logs."""
    return Response(status_code=CLIENT_LEFT)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = f"{request.method} {request.url.path[:200]}: {error.detail}"
    answer = await handle(
        request, Refused(error.status_code, "not_routed", problem, "POST to /predict; see /docs.json")
    )
    answer.headers.update(error.headers or {})
    return answer
