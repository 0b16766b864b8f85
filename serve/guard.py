"""The HTTP door's frame, as ASGI: key, place, request id, and what is counted and logged of every request."""

import logging
import math
import time
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import logs
from serve.desk import Desk
from serve.errors import Refusal, refusal_of

OPEN = ("/", "/v2/health/live", "/v2/health/ready")
"""Answered without a key and whatever the load."""
CLIENT_LEFT = 499
OPENAI_S = {401: "authentication_error", 429: "rate_limit_error"}
"""OpenAI's types of errors; most are "invalid_request_error"."""


class Guard:
    """Lets a request in, and answers for what the routes let through."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the routes."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        desk: Desk = scope["app"].state.desk
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        request_id = logs.request_id(headers.get(b"x-request-id"))
        state = scope.setdefault("state", {})
        operation, status, is_whole = _operation(scope["path"]), 0, False

        async def send_on(message: Message) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.body":
                is_whole = not message.get("more_body")
            elif message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if scope["path"] in OPEN:
                await self._app(scope, receive, send_on)
                return
            desk.check_key(headers.get(b"authorization"), headers.get(b"x-api-key"))
            with desk.seat(operation):
                await self._app(scope, receive, send_on)
            if not is_whole:  # a stream, whose client went away
                status = CLIENT_LEFT
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.status >= 500:
                logs.log("failed", logging.ERROR, exc_info=error, request_id=request_id)
            if status:  # the answer had begun; the connection breaks off
                raise
            await answer_refusal(refusal, scope["path"])(scope, receive, send_on)
        finally:
            desk.note(
                "http",
                operation,
                str(status),
                began,
                request_id,
                inputs=state.get("inputs"),
                traceparent=headers.get(b"traceparent"),
            )


def answer_refusal(refusal: Refusal, path: str) -> Response:
    """Answer an error."""
    headers = {}
    if refusal.status == 429:
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after_s or 1)))
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    status, content = _said(refusal, path)
    return Response(orjson.dumps(content), status, headers, "application/json")


async def handle(request: Request, error: Exception) -> Response:
    """Answer an error that was raised inside of the routes."""
    return answer_refusal(refusal_of(error), request.url.path)


def _said(refusal: Refusal, path: str) -> tuple[int, Any]:
    """Put an error in our shape, below /v2 in the protocol's, `{"error": "…"}`, and below /v1 in OpenAI's."""
    text = f"{refusal.message}; {refusal.remedy}"
    if path.startswith("/v2"):
        return refusal.status, {"error": text}
    if path.startswith("/v1/"):
        status = 400 if refusal.status == 422 else refusal.status  # which is none of OpenAI's
        kind = "server_error" if status >= 500 else OPENAI_S.get(status, "invalid_request_error")
        return status, {"error": {"message": text, "type": kind, "param": None, "code": refusal.code}}
    return refusal.status, refusal.as_json()


def _operation(path: str) -> str:
    """Name what was asked for, out of a few words, so that nobody fills the metrics with paths."""
    if path == "/predict":
        return "predict"
    if path.startswith("/v2"):
        return "infer" if path.endswith("/infer") else "v2"
    return "openai" if path.startswith("/v1/") and path.endswith("completions") else "other"
