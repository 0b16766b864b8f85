"""The HTTP application: the frame of a request as ASGI middleware, in front of the routes."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tuneport.errors import NotFound

from ..errors import ErrorResponse
from ..framing import RequestFrame
from ..metrics.requests import CANCELLED
from ..models.registry import ModelRegistry
from .paths import named_model, operation_of
from .responses import error_response

Endpoint = Callable[[Request], Awaitable[Response]]


class FramedApp:
    """Puts a `RequestFrame` around every HTTP request, and sends the responses to errors that routes raise.

    Starlette's own layers and its router take as long as all the rest of a short request, so the endpoints that most
    requests go to are called without them.
    """

    def __init__(
        self,
        app: Starlette,
        handlers: Mapping[Any, Any],
        models: ModelRegistry,
        direct: Mapping[str, Endpoint],
    ) -> None:
        """Wrap the routes of `app`; `handlers` respond to exceptions by their classes.

        `direct` maps paths to endpoints for POST that are called without Starlette's router.
        """
        self._app = app
        # Without Starlette's outermost layer, which answers exceptions before the frame sees them.
        self._routes = ExceptionMiddleware(app.router, handlers)
        self._models = models
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; other scopes pass unchanged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        frame, not_found = self._frame(path, headers)
        scope["app"] = self._app  # as Starlette itself sets it
        scope.setdefault("state", {})["frame"] = frame
        framed = _FramedSend(send, frame)

        async def run_routes() -> None:
            if not_found:
                raise not_found
            await self._run_routes(scope, receive, framed)
            if not framed.is_complete:  # a stream whose client went away
                frame.status = CANCELLED["http"]

        async def respond(error: ErrorResponse, exception: Exception) -> None:
            if framed.has_begun:  # too late for a status: the server closes the connection
                raise exception
            await error_response(error, path)(scope, receive, framed)

        await frame.handle(run_routes, respond)

    def _frame(self, path: str, headers: dict[str, str]) -> tuple[RequestFrame, NotFound | None]:
        """Return the frame with the version that answers, and the error for a path that names an unknown one."""
        models, operation, not_found = self._models, operation_of(path), None
        default = models.default
        admission = default.serving if default.candidate is None else default.choose(headers)
        if path not in self._direct and "\n" not in path and (named := named_model(path)):  # see `_run_routes`
            try:
                admission = models.find(*named, headers)
            except NotFound as error:
                not_found = error
        is_named = operation != "openai" or not models.has_several
        return RequestFrame(admission, "http", operation, headers, is_named=is_named), not_found

    async def _run_routes(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if "\n" in path:  # the pattern of a route matches it with a line break at its end, too
            raise NotFound("a line break in the path", "POST to /predict; see /docs.json", code="not_routed")
        endpoint = self._direct.get(path) if scope["method"] == "POST" else None
        if endpoint is None:
            await self._routes(scope, receive, send)
        else:
            response = await _respond(endpoint, Request(scope, receive))
            await response(scope, receive, send)


class _FramedSend:
    """Sends a response with the request's id, and remembers its status and how far it came."""

    def __init__(self, send: Send, frame: RequestFrame) -> None:
        self._send = send
        self._frame = frame
        self.has_begun = self.is_complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.is_complete = not message.get("more_body")
        elif message["type"] == "http.response.start":
            self.has_begun, self._frame.status = True, str(message["status"])
            message["headers"] = [*message["headers"], (b"x-request-id", self._frame.request_id.encode())]
        await self._send(message)


async def client_disconnected(request: Request, _: Exception) -> Response:
    """Return a response that nobody reads; its status is for metrics and logs."""
    return Response(status_code=int(CANCELLED["http"]))


async def _respond(endpoint: Endpoint, request: Request) -> Response:
    try:
        return await endpoint(request)
    except ClientDisconnect as error:
        return await client_disconnected(request, error)
