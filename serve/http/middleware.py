"""The frame of an HTTP request as ASGI middleware: admission, request id, error response and record."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneport.errors import NotFound

from ..admission import AdmissionController
from ..errors import ErrorResponse
from ..framing import CANCELLED, RequestFrame
from .responses import error_response

PUBLIC_PATHS = ("/", "/ping", "/v2/health/live", "/v2/health/ready")
"""Served without a key and whatever the load: the playground's page, and health checks."""


class RequestMiddleware:
    """Puts a `RequestFrame` around every HTTP request, and sends the responses to errors that routes raise."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the routes."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; other scopes pass unchanged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        admission: AdmissionController = scope["app"].state.admission
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        frame = RequestFrame(admission, "http", operation_of(scope["path"]), headers)
        scope.setdefault("state", {})["frame"] = frame
        has_begun = is_complete = False

        async def send_framed(message: Message) -> None:
            nonlocal has_begun, is_complete
            if message["type"] == "http.response.body":
                is_complete = not message.get("more_body")
            elif message["type"] == "http.response.start":
                has_begun, frame.status = True, str(message["status"])
                message["headers"] = [*message["headers"], (b"x-request-id", frame.request_id.encode())]
            await send(message)

        async def run_routes() -> None:
            if "\n" in scope["path"]:  # the pattern of a route matches it with a line break at its end, too
                raise NotFound("a line break in the path", "POST to /predict; see /docs.json", code="not_routed")
            await self._app(scope, receive, send_framed)
            if not is_complete:  # a stream whose client went away
                frame.status = CANCELLED["http"]

        async def respond(error: ErrorResponse, exception: Exception) -> None:
            if has_begun:  # too late for a status: the server closes the connection
                raise exception
            await error_response(error, scope["path"])(scope, receive, send_framed)

        await frame.handle(run_routes, respond)


def operation_of(path: str) -> str | None:
    """Return the operation of a path for the record, one of a few words; None for a public path."""
    if path in PUBLIC_PATHS:
        return None
    if path in ("/predict", "/invocations", "/tei/predict"):
        return "predict"
    if path in ("/rerank", "/tei/rerank"):
        return "rerank"
    if path.startswith("/v2"):
        return "infer" if path.endswith("/infer") else "v2"
    return "openai" if path.startswith("/v1/") and path.endswith("completions") else "other"
