"""What routes need of a request: the worker's admission control, the body, and whether the client is still there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from tuneport.errors import PayloadTooLarge, RequestError, SlowRequest, UnsupportedEncoding
from tuneport.runtime.tasks.inputs import check_number
from tuneport.schema.base import explain_invalid

from ..admission import AdmissionController
from ..framing import RequestFrame
from ..json_text import parse_json
from ..models.registry import ModelRegistry
from .compression import GZIP, IDENTITY, decompress

Result = TypeVar("Result")
Body = TypeVar("Body", bound=BaseModel)
WATCH_AFTER_S = 0.05
"""How long a request may take before it is watched for its client's leaving: most are answered sooner."""


def admission_of(request: Request) -> AdmissionController:
    """Return the admission control of the version that answers."""
    return frame_of(request).admission


def models_of(request: Request) -> ModelRegistry:
    """Return the models of the worker."""
    models: ModelRegistry = request.app.state.models
    return models


def frame_of(request: Request) -> RequestFrame:
    """Return the frame that the middleware put around the request."""
    frame: RequestFrame = request.state.frame
    return frame


async def read_body(request: Request) -> bytes:
    """Read the body, in time and up to its maximum size, whatever Content-Length says, and decompress gzip.

    The maximum holds for what was sent and for what it holds. Raises UnsupportedEncoding, PayloadTooLarge, SlowRequest,
    or MalformedRequest for a body that is not gzip though it says so.
    """
    settings, headers = admission_of(request).settings, frame_of(request).headers
    encoding = headers.get("content-encoding", IDENTITY).strip().lower()
    if encoding not in (IDENTITY, *GZIP):
        raise UnsupportedEncoding(f"the body has the encoding {encoding[:40]!r}", "send gzip, or no Content-Encoding")
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > settings.max_body_bytes:  # before a client sends it in vain
        raise _too_large(settings.max_body_bytes)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            body = await _receive_body(request, settings.max_body_bytes)
    except TimeoutError:
        problem = f"the body took longer than {settings.body_timeout_s:g} s"
        raise SlowRequest(problem, "send it faster, or less of it") from None
    if encoding == IDENTITY:
        return body
    return await decompress(admission_of(request).inference.executors, body, settings.max_body_bytes)


async def _receive_body(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size, is_complete = 0, False
    while not is_complete:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        is_complete = not message.get("more_body")
    return b"".join(parts)


async def read_checked_body(request: Request, kind: type[Body], refuse: Callable[[str, str], RequestError]) -> Body:
    """Read a JSON body and validate it as `kind`; raises what `refuse` makes of a problem and its remedy."""
    raw = await read_body(request)
    content = await admission_of(request).inference.executors.run_if_large(len(raw), parse_json, raw)
    if isinstance(content, dict):
        check_number(len(content), "fields")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem, known = explain_invalid(error, kind)
        raise refuse(f"wrong request: {problem}", f"known fields: {known}") from error


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body has over {limit} bytes", "send several smaller requests", code="body_too_large")


async def unless_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """Await work; cancel it and raise ClientDisconnect when the client goes away, but not before `WATCH_AFTER_S`."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    disconnect: asyncio.Task[None] | None = None
    is_gone = False

    def watch() -> None:
        nonlocal disconnect
        disconnect = loop.create_task(_disconnect(request))
        disconnect.add_done_callback(cancel)

    def cancel(_: Any) -> None:
        nonlocal is_gone
        is_gone = True
        task.cancel()

    timer = loop.call_later(WATCH_AFTER_S, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if is_gone:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        if disconnect is not None:
            disconnect.remove_done_callback(cancel)
            disconnect.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
