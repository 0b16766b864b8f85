"""HTTP connections: what uvicorn's protocol lacks. It also answers requests that are refused before they are read."""

import asyncio
import re
import select
from collections.abc import Callable
from typing import Any

from ..settings import Settings
from .transport import GatheringTransport

HTTP2_UPGRADE = re.compile(rb"(?<=\r\n)upgrade:[ \t]*h2c[ \t]*\r\n", re.IGNORECASE)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PROBE_S = 0.1
METHODS = (b"POST ", b"GET ", b"PUT ", b"OPTIONS ")
Refuse = Callable[[bytes, list[tuple[bytes, bytes]]], bytes | None]
"""Called with the target and the headers (lower-case names) of a POST request; returns a response, or None to go on."""


class _ServerProtocol(asyncio.Protocol):
    """A mixin for uvicorn's httptools protocol: time limits, early refusals, half-closed clients.

    uvicorn itself waits for headers without limit, and for a client that does not read its responses; and it drops the
    request of a client that closes its sending side.
    """

    header_timeout_s: float
    body_timeout_s: float
    """For a body that nobody reads, and for a client to read."""
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    cycle: Any
    pipeline: Any
    parser: Any
    url: bytes
    headers: list[tuple[bytes, bytes]]
    expect_100_continue: bool
    refuse: Refuse | None
    timeout_keep_alive: int
    timeout_keep_alive_handler: Callable[[], None]
    timeout_keep_alive_task: asyncio.TimerHandle | None
    _unset_keepalive_if_required: Callable[[], None]
    on_change: Callable[[], None] = staticmethod(lambda: None)
    """Called when a connection begins or ends."""
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _has_begun = False
    """Whether a request has begun whose headers are not complete."""
    _expects_body = False
    """Whether a request's headers are complete, and its body is not."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(GatheringTransport(transport, self.loop))  # type: ignore[arg-type]
        self._wait_for_headers()
        self.on_change()

    def data_received(self, data: bytes) -> None:
        super().data_received(_without_upgrade(data))
        if self._has_begun and not self._timer:  # a part of the headers, which usually come as a whole
            self._wait_for_headers()

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()  # of a request before this one that was refused
        self._has_begun = True
        self._stop_waiting()
        super().on_message_begin()  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless it is refused: then its body is not kept."""
        self._has_begun, self._expects_body = False, True
        self._stop_waiting()
        response = self.refuse(self.url, self.headers) if self.refuse and self._may_refuse() else None
        if response is None:
            super().on_headers_complete()  # type: ignore[misc]
            return
        self.cycle = REFUSED
        self.transport.write(response)
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """Limit the time of a body that nobody reads, because the response came before its end."""
        super().on_response_complete()  # type: ignore[misc]
        if self._expects_body and self.cycle.response_complete and not self.transport.is_closing():
            self._wait(self.body_timeout_s)

    def _may_refuse(self) -> bool:
        """Tell whether a response may be sent now, after which the connection goes on with the next request."""
        is_first = self.cycle is None or self.cycle.response_complete
        return (
            is_first
            and not self.expect_100_continue
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
        )

    def on_message_complete(self) -> None:
        """Wait for the next request, also where the body came after the response: its arrival ended the wait."""
        super().on_message_complete()  # type: ignore[misc]
        self._expects_body = False
        self._stop_waiting()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def eof_received(self) -> bool:
        """Keep the connection of a client that has sent its request and closes its side; end any other one."""
        last = self.cycle
        if not last or last.response_complete or last.more_body or self.transport.get_extra_info("sslcontext"):
            return False
        last.keep_alive = False
        self._probe(last)
        return True

    def _probe(self, cycle: Any) -> None:
        """End the connection if the client has closed its other side, too.

        Both ways of closing look alike until something is sent: then the one who is gone resets the connection.
        """
        if not self.pipeline and not cycle.response_started and cycle.scope["http_version"] == "1.1":
            self.transport.write(CONTINUE)
        self._watch(cycle)

    def _watch(self, cycle: Any) -> None:
        if self.transport.is_closing() or cycle.response_complete:
            return
        if _is_reset(self.transport.get_extra_info("socket")):
            self.transport.abort()
        else:
            self.loop.call_later(PROBE_S, self._watch, cycle)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.body_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_write_timer()
        super().connection_lost(exc)
        self.on_change()

    def _wait_for_headers(self) -> None:
        self._wait(self.header_timeout_s)

    def _wait(self, seconds: float) -> None:
        """Close the connection after some seconds, unless what is waited for comes."""
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self._close)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class _Refused:
    """Stands for a request that was answered before it was read, in the place of uvicorn's cycle."""

    response_complete = True
    more_body = False
    message_event = asyncio.Event()


REFUSED = _Refused()


def extend_protocol(protocol: Any, settings: Settings, refuse: Refuse | None = None) -> Any:
    """Add the timeouts and early refusals to uvicorn's HTTP protocol class.

    Its h11 protocol has no callbacks for that and stays.
    """
    if not hasattr(protocol, "on_headers_complete"):
        return protocol
    fields = {
        "header_timeout_s": settings.header_timeout_s,
        "body_timeout_s": settings.body_timeout_s,
        "refuse": staticmethod(refuse) if refuse else None,
    }
    return type("ServerProtocol", (_ServerProtocol, protocol), fields)


def _is_reset(socket: Any) -> bool:
    poll = select.poll()
    poll.register(socket.fileno(), 0)
    return bool(poll.poll(0))


def _without_upgrade(data: bytes) -> bytes:
    """Remove the header `Upgrade: h2c`, which Java's HTTP client sends with every request.

    httptools would read what follows the headers as HTTP/2, and uvicorn would lose the body.
    """
    if not data.startswith(METHODS) or not HTTP2_UPGRADE.search(data):
        return data
    head, separator, body = data.partition(b"\r\n\r\n")
    return HTTP2_UPGRADE.sub(b"", head + separator) + body
