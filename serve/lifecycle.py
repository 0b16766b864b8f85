"""Start and stop of a worker: uvicorn's settings, a graceful shutdown, and the report of a failed start.

BentoML creates the uvicorn server itself and passes few settings on, so a worker finds it by its signal handler.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import select
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from tuneport.errors import TuneportError

from . import logs, supervision
from .accept import ConnectionCounts, Listener
from .settings import START_REPORT, Settings

HTTP2_UPGRADE = re.compile(rb"(?<=\r\n)upgrade:[ \t]*h2c[ \t]*\r\n", re.IGNORECASE)
FORCED_EXIT_S = 5.0
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PROBE_S = 0.1
BENTOML_PATHS = frozenset({"/livez", "/healthz", "/readyz", "/schema.json"})
METHODS = (b"POST ", b"GET ", b"PUT ", b"OPTIONS ")


def configure_server(
    settings: Settings,
    app: ASGIApp,
    drain: Callable[[], Awaitable[None]],
    hurry: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Set the server's timeouts and application, and make SIGTERM and SIGINT await `drain` before it closes its port.

    Requests go to `app` without BentoML's application around it, but for BentoML's own paths. A further SIGINT ends all
    requests at once and calls `hurry`.
    Call it in the event loop while the server starts. Without uvicorn, as in tests, it does nothing.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not isinstance(server, uvicorn.Server):
        return
    server.config.loaded_app = PathSwitch(app, server.config.loaded_app)
    server.config.timeout_keep_alive = settings.keep_alive_s
    server.config.timeout_graceful_shutdown = settings.shutdown_grace_s
    server.config.http_protocol_class = with_timeouts(
        server.config.http_protocol_class, settings.header_timeout_s, settings.body_timeout_s
    )
    loop = asyncio.get_running_loop()
    _replace_listener(loop, server, settings)
    received: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def stop(number: int) -> None:
        try:
            await drain()
        finally:
            server.handle_exit(number, None)

    def stop_now() -> None:
        server.handle_exit(signal.SIGTERM, None)
        for connection in list(server.server_state.connections):
            if transport := getattr(connection, "transport", None):
                transport.abort()
        tasks.add(loop.create_task(hurry()))

    def on_signal(number: int, _: Any) -> None:
        received.append(number)
        if len(received) == 1:
            loop.call_soon_threadsafe(lambda: tasks.add(loop.create_task(stop(number))))
        elif number == signal.SIGINT:  # a second Ctrl-C skips the drain and the grace time
            loop.call_soon_threadsafe(stop_now)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


class PathSwitch:
    """Passes BentoML's own paths to BentoML's application, and all other requests to tuneport's.

    BentoML's layers (OpenTelemetry, timeout, request context, router) take longer than all the rest of a short request.
    """

    def __init__(self, app: ASGIApp, bentoml_app: ASGIApp) -> None:
        """Take both applications."""
        self._app = app
        self._bentoml_app = bentoml_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        is_ours = scope["type"] == "http" and scope["path"] not in BENTOML_PATHS
        await (self._app if is_ours else self._bentoml_app)(scope, receive, send)


def stop_worker(shutdown_grace_s: float) -> None:
    """End this worker as SIGTERM does; by force some seconds after the grace time, because a lost GPU may block it.

    Call it in the main thread. BentoML's supervisor starts another worker.
    """
    timer = threading.Timer(shutdown_grace_s + FORCED_EXIT_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
    signal.raise_signal(signal.SIGTERM)


def _replace_listener(loop: asyncio.AbstractEventLoop, server: uvicorn.Server, settings: Settings) -> None:
    """Make the server that uvicorn is about to create bound TLS handshakes and, with several workers, share evenly."""
    create_server = loop.create_server

    async def listen(protocol: Callable[[], Any], *, sock: Any, ssl: Any, backlog: int) -> Any:
        handshake_timeout_s = settings.header_timeout_s if ssl else None
        folder = os.environ.get(supervision.RUN_FOLDER)
        if settings.worker_count == 1 or not folder:
            return await create_server(
                protocol, sock=sock, ssl=ssl, backlog=backlog, ssl_handshake_timeout=handshake_timeout_s
            )
        counts = ConnectionCounts(Path(folder, "connections"), settings.worker_count)
        connections = server.server_state.connections
        listener = Listener(sock, protocol, counts, lambda: len(connections), ssl, handshake_timeout_s)
        setattr(server.config.http_protocol_class, "on_change", staticmethod(listener.publish))  # noqa: B010
        return listener

    loop.create_server = listen  # type: ignore[assignment, method-assign]


def report_failed_start(error: Exception) -> None:
    """Log and write why this worker cannot start, and end the supervisor unless another worker serves."""
    if not isinstance(error, TuneportError):
        logs.log("failed start", logging.ERROR, exc_info=error, reason=str(error)[:500])
        reason = f"a worker failed at its start ({type(error).__name__}: {str(error)[:300]})"
        error = TuneportError(reason, "see the service's log")
    if path := os.environ.get(START_REPORT):
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps([error.problem, error.remedy]), encoding="utf-8")
    supervision.end_supervisor_unless_others_serve()


def read_failed_start(report: Path) -> TuneportError | None:
    """Read what `report_failed_start` wrote."""
    with contextlib.suppress(OSError, ValueError):
        problem, remedy = json.loads(report.read_text(encoding="utf-8"))
        return TuneportError(problem, remedy)
    return None


class _Timeouts(asyncio.Protocol):
    """A mixin for uvicorn's httptools protocol: it bounds the time for headers, and answers half-closed clients.

    uvicorn itself waits for headers without limit, and drops the request of a client that closes its sending side. It
    also waits without limit for a client that does not read its responses.
    """

    header_timeout_s: float
    write_timeout_s: float
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    cycle: Any
    pipeline: Any
    on_change: Callable[[], None] = staticmethod(lambda: None)
    """Called when a connection begins or ends."""
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_headers()
        self.on_change()

    def data_received(self, data: bytes) -> None:
        super().data_received(_without_upgrade(data))

    def on_message_begin(self) -> None:
        self._wait_for_headers()
        super().on_message_begin()  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()  # type: ignore[misc]

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
        self._write_timer = self.loop.call_later(self.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_write_timer()
        super().connection_lost(exc)
        self.on_change()

    def _stop_write_timer(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None

    def _wait_for_headers(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self.header_timeout_s, self._close)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def with_timeouts(protocol: Any, header_timeout_s: float, write_timeout_s: float) -> Any:
    """Add the timeouts to uvicorn's HTTP protocol class; its h11 protocol has no callbacks for that and stays."""
    if not hasattr(protocol, "on_headers_complete"):
        return protocol
    timeouts = {"header_timeout_s": header_timeout_s, "write_timeout_s": write_timeout_s}
    return type("TimeoutsProtocol", (_Timeouts, protocol), timeouts)


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
