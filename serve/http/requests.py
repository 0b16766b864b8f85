"""What routes need of a request: the worker's admission control, the body, and whether the client is still there."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from tuneport.errors import PayloadTooLarge, SlowRequest, UnsupportedEncoding

from ..admission import AdmissionController
from ..framing import RequestFrame

Result = TypeVar("Result")


def admission_of(request: Request) -> AdmissionController:
    """Return the admission control of the application."""
    admission: AdmissionController = request.app.state.admission
    return admission


def frame_of(request: Request) -> RequestFrame:
    """Return the frame that the middleware put around the request."""
    frame: RequestFrame = request.state.frame
    return frame


async def read_body(request: Request) -> bytes:
    """Read the body, in time and up to its maximum size, whatever Content-Length says.

    Raises UnsupportedEncoding, PayloadTooLarge or SlowRequest.
    """
    settings = admission_of(request).settings
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedEncoding("the body is compressed", "send it without Content-Encoding")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > settings.max_body_bytes:  # before a client sends it in vain
        raise _too_large(settings.max_body_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_body_bytes:
                    raise _too_large(settings.max_body_bytes)
    except TimeoutError:
        problem = f"the body took longer than {settings.body_timeout_s:g} s"
        raise SlowRequest(problem, "send it faster, or less of it") from None
    return bytes(body)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body has over {limit} bytes", "send several smaller requests", code="body_too_large")


async def unless_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """Await work; cancel it and raise ClientDisconnect when the client goes away."""
    task, is_gone = asyncio.current_task(), False
    assert task is not None

    def cancel(_: Any) -> None:
        nonlocal is_gone
        is_gone = True
        task.cancel()

    disconnect = asyncio.ensure_future(_disconnect(request))
    disconnect.add_done_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if is_gone:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        disconnect.remove_done_callback(cancel)
        disconnect.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
