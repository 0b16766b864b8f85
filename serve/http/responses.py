"""Responses: JSON, errors in the shape of each protocol, and server-sent events."""

from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tuneport.errors import ERROR_CODE_HEADER

from ..errors import ErrorResponse
from .paths import TEI_PATHS
from .requests import frame_of

OPENAI_ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
"""HTTP status → OpenAI's type of error; the other types are "invalid_request_error" and "server_error"."""
TEI_ERROR_TYPES = {413: "Validation", 422: "Tokenizer", 429: "Overloaded", 503: "Unhealthy"}
"""HTTP status → Text Embeddings Inference's type of error; the others are "Validation" and "Backend"."""
MAX_REFUSALS = 64
"""Refusals that are kept: one for each protocol, kind and time to retry."""
EVENT_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Keep proxies from holding events back."""


def json_response(content: Any, status: int = 200) -> Response:
    """Return JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def error_response(error: ErrorResponse, path: str) -> Response:
    """Return an error with its status and headers, in the shape that belongs to the path.

    Refusals because of load are alike for all requests of a second, and made once.
    """
    return _refusal(error, path) if error.status == 429 else _error_response(error, path)


def _error_response(error: ErrorResponse, path: str) -> Response:
    headers = {ERROR_CODE_HEADER: error.code} if path.startswith("/v2") else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.allowed is not None:
        headers["Allow"] = error.allowed
    if error.closes_connection:
        headers["Connection"] = "close"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    status, content = error_content(error, path)
    return Response(orjson.dumps(content), status, headers, "application/json")


_refusal = lru_cache(MAX_REFUSALS)(_error_response)


def error_content(error: ErrorResponse, path: str) -> tuple[int, Any]:
    """Return status and JSON of an error: tuneport's shape, and those of the other protocols below their paths."""
    if path.startswith("/v2"):
        return error.status, {"error": error.text}
    if path.startswith("/v1/"):
        status = 400 if error.status == 422 else error.status  # OpenAI does not use 422
        kind = "server_error" if status >= 500 else OPENAI_ERROR_TYPES.get(status, "invalid_request_error")
        return status, {"error": {"message": error.text, "type": kind, "param": None, "code": error.code}}
    if path in TEI_PATHS:
        kind = TEI_ERROR_TYPES.get(error.status, "Backend" if error.status >= 500 else "Validation")
        return error.status, {"error": error.text, "error_type": kind}
    return error.status, error.as_json()


async def event_stream(request: Request, events: AsyncIterator[Any], last: str | None = None) -> StreamingResponse:
    """Send JSON values as server-sent events, and `last` literally after them.

    The first event is awaited here: an error before it gets a status of its own, a later one becomes an event.
    """
    first = await anext(events)

    async def lines() -> AsyncIterator[bytes]:
        yield _event(first)
        try:
            async for event in events:
                yield _event(event)
        except Exception as error:
            yield _event(error_content(frame_of(request).to_response(error), request.url.path)[1])
            return
        if last is not None:
            yield f"data: {last}\n\n".encode()

    return StreamingResponse(lines(), headers=EVENT_HEADERS, media_type="text/event-stream")


def _event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
