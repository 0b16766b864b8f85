"""The HTTP application: `POST /predict`, Open Inference Protocol, OpenAI's /v1, the playground and /metrics.

The paths for probes, /livez and /readyz, are beside it: `serve/lifecycle.py`.
"""

import asyncio

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from tuneport.errors import MethodNotAllowed, NotFound, RequestError

from ..models.host import ModelHost
from ..models.registry import ModelRegistry
from .evidence import routes as evidence_routes
from .generate import routes as generate_routes
from .middleware import FramedApp, client_disconnected
from .model_management import routes as model_management_routes
from .open_inference import routes as open_inference_routes
from .openai import routes as openai_routes
from .openapi import describe_api
from .paths import PING, PREDICT_PATHS, VERSIONS
from .playground.routes import routes as playground_routes
from .predict_body import parse_body
from .protocol import Refuse
from .refusal import EarlyRefusal
from .repository import routes as repository_routes
from .requests import admission_of, frame_of, models_of, read_body, unless_disconnected
from .responses import json_response
from .streaming import stream_prediction
from .tei import routes as tei_routes
from .uploads import is_upload, read_upload


def create_app(models: ModelRegistry, origins: list[str] | None = None, host: ModelHost | None = None) -> ASGIApp:
    """Create the application; pages of `origins` may call it (CORS), and `host` loads models."""
    routes = Starlette(
        routes=[
            *(Route(path, predict, methods=["POST"]) for path in PREDICT_PATHS),
            *(Route(f"/models/{{model}}{version}/predict", predict, methods=["POST"]) for version in VERSIONS),
            Route(PING, ping),
            *tei_routes,
            *model_management_routes,  # before `/v2/models/{model}`, which would take `stats` for a model
            *open_inference_routes,
            *generate_routes,
            *repository_routes,
            *evidence_routes,
            *openai_routes,
            *playground_routes,
            Route("/metrics", metrics),
            Route("/docs.json", docs),
            FallbackRoute("/{path:path}", not_routed),
        ],
    )
    routes.state.models = models
    routes.state.host = host
    handlers = {ClientDisconnect: client_disconnected, HTTPException: _starlette_error}
    app = FramedApp(routes, handlers, models, direct={"/predict": predict})
    return CORSMiddleware(app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]) if origins else app


def create_refusal(models: ModelRegistry, origins: list[str] | None = None) -> Refuse | None:
    """Return what refuses requests before the application sees them; None where responses need headers of CORS."""
    return None if origins else EarlyRefusal(models)


async def predict(request: Request) -> Response:
    """`{"inputs": X, "parameters": {…}}` → `{"predictions": […], "model": {…}}`, in order and number."""
    admission, frame = admission_of(request), frame_of(request)
    body, content_type = await read_body(request), frame.headers.get("content-type", "")
    read = read_upload if is_upload(content_type) else parse_body
    inputs, parameters = await admission.inference.executors.run_if_large(len(body), read, body, content_type)
    frame.inputs = inputs
    if isinstance(parameters, dict) and parameters.get("stream") is True:
        return await stream_prediction(request, inputs, parameters)
    results = await unless_disconnected(request, admission.infer(inputs, parameters))
    return json_response({"predictions": [result.prediction for result in results], "model": admission.model})


async def ping(request: Request) -> Response:
    """Answer whether the service accepts requests, with an empty body, as SageMaker asks for it."""
    return Response(status_code=200 if models_of(request).ready else 503)


async def metrics(request: Request) -> Response:
    """Return the metrics for Prometheus, unless they have a port of their own."""
    admission = admission_of(request)
    if port := admission.settings.metrics_port:
        raise NotFound(f"the metrics are on port {port}", f"GET /metrics on port {port}", code="not_routed")
    page, content_type = await asyncio.to_thread(admission.metrics.page)  # NVML may take a while
    return Response(page, headers={"Content-Type": content_type})


async def docs(request: Request) -> Response:
    """Describe the HTTP API in OpenAPI's form."""
    return json_response(describe_api(admission_of(request).manifest, admission_of(request).settings))


class FallbackRoute(Route):
    """Matches every path that no other route has."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match with any method, and with line breaks in the path."""
        if scope["type"] != "http":
            return Match.NONE, {}
        self.methods = None  # Starlette's constructor replaces None by GET
        return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}


async def not_routed(request: Request) -> Response:
    """Raise MethodNotAllowed for a path that has other methods, else NotFound."""
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is Match.PARTIAL:
            raise _routing_error(request, ", ".join(sorted((route.methods or set()) - {"HEAD"})))
    raise _routing_error(request)


async def _starlette_error(request: Request, error: Exception) -> Response:
    """Raise Starlette's own routing errors as request errors, which the middleware responds to."""
    assert isinstance(error, HTTPException)
    raise _routing_error(request, (error.headers or {}).get("Allow")) from error


def _routing_error(request: Request, allowed: str | None = None) -> RequestError:
    """Return the error for a path that doesn't exist or, given the allowed methods, for a wrong method."""
    line = f"{request.method} {request.url.path[:200]}"
    if allowed:
        return MethodNotAllowed(f"{line}: the path has other methods", allowed)
    return NotFound(f"{line}: no such path", "POST to /predict; see /docs.json", code="not_routed")
