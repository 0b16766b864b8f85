"""The HTTP door: `POST /predict`. BentoML mounts it and adds /livez, /readyz, /metrics.

Open Inference Protocol v2 (`/v2/…`) will be routes of this application, and gRPC the module beside it.
"""

import asyncio
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from export.files import TuneportError
from serve.batcher import Overloaded
from serve.predictor import Predictor
from serve.settings import Settings
from serve.tasks.inputs import InputError


class Refused(TuneportError):
    """A request that gets an error answer instead of predictions."""

    def __init__(self, status: int, code: str, problem: str, remedy: str) -> None:
        """`status` is HTTP's; `code` is for programs, the two phrases for people."""
        super().__init__(problem, remedy)
        self.status = status
        self.code = code


def create_app() -> Starlette:
    """Make the application; it answers once `app.state` holds a `predictor` and the `settings`."""
    return Starlette(
        routes=[Route("/predict", predict, methods=["POST"])],
        exception_handlers={
            Refused: _refused,
            InputError: _wrong_input,
            Overloaded: _overloaded,
            ClientDisconnect: _client_left,
            HTTPException: _not_routed,
            Exception: _failed,
        },
    )


async def predict(request: Request) -> Response:
    """`{"inputs": X, "parameters": {…}}` → `{"predictions": […], "model": {…}}`, in order and number."""
    predictor: Predictor = request.app.state.predictor
    settings: Settings = request.app.state.settings
    inputs, parameters = _read_request(await _read_body(request, settings.max_body_bytes), settings.max_inputs)
    try:
        async with asyncio.timeout(settings.request_timeout_s):
            predictions = await predictor.answer(inputs, parameters)
    except TimeoutError:
        seconds = f"{settings.request_timeout_s:g} s"
        raise Refused(503, "timeout", f"no answer within {seconds}", "send fewer inputs or add replicas") from None
    return _json(200, {"predictions": predictions, "model": predictor.describe()})


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Read the body, and no more of it than is allowed, whatever its Content-Length claims."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise Refused(
                413, "body_too_large", f"the body has over {max_bytes} bytes", "send several smaller requests"
            )
    return bytes(body)


def _read_request(body: bytes, max_inputs: int) -> tuple[list[Any], Any]:
    """Check the envelope of a request; the inputs themselves are the task's to check."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, "not_json", f"the body is not JSON: {error}", 'send {"inputs": […]} as UTF-8') from error
    if not isinstance(content, dict) or "inputs" not in content:
        raise Refused(422, "no_inputs", 'the body is not an object with "inputs"', 'send {"inputs": […]}')
    if unknown := sorted(content.keys() - {"inputs", "parameters"}):
        raise Refused(422, "unknown_field", f"unknown fields {unknown}"[:200], 'send "inputs" and "parameters"')
    inputs = content["inputs"] if isinstance(content["inputs"], list) else [content["inputs"]]
    if not inputs:
        raise Refused(422, "empty", '"inputs" is an empty list', "send at least one input")
    if len(inputs) > max_inputs:
        problem = f"{len(inputs)} inputs in one request, and the limit is {max_inputs}"
        raise Refused(413, "too_many_inputs", problem, "send several requests, or raise TUNEPORT_MAX_INPUTS")
    return inputs, content.get("parameters")


def _json(status: int, content: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def _error(status: int, code: str, problem: str, remedy: str, headers: dict[str, str] | None = None) -> Response:
    return _json(status, {"error": {"code": code, "message": problem, "remedy": remedy}}, headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _error(error.status, error.code, error.problem, error.remedy)


async def _wrong_input(_: Request, error: Exception) -> Response:
    assert isinstance(error, InputError)
    return _error(422, "wrong_input", error.problem, error.remedy)


async def _overloaded(_: Request, error: Exception) -> Response:
    assert isinstance(error, Overloaded)
    return _error(429, "overloaded", error.problem, error.remedy, {"Retry-After": "1"})


async def _client_left(_: Request, error: Exception) -> Response:
    return _error(400, "client_left", "the client closed the connection", "send the request again")


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    remedy = "POST to /predict"
    problem = f"{request.method} {request.url.path}: {error.detail}"
    return _error(error.status_code, "not_routed", problem, remedy, dict(error.headers or {}))


async def _failed(_: Request, error: Exception) -> Response:
    """Answer in the shape of every error; Starlette raises the error again for the log."""
    return _error(500, "internal", f"the model failed ({type(error).__name__})", "see the service's log; report it")
