"""Start and stop of a worker: uvicorn's settings, a graceful shutdown, and the report of a failed start.

BentoML creates the uvicorn server itself and passes few settings on, so a worker finds it by its signal handler.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from tuneport.errors import TuneportError

from . import logs, supervision
from .accept import ConnectionCounts, Listener
from .http.protocol import Refuse, extend_protocol
from .settings import START_REPORT, Settings

FORCED_EXIT_S = 5.0
"""Time for a process to end after its drain and grace time, before it is ended by force."""
PROBE_PATHS = frozenset({"/livez", "/healthz", "/readyz", "/schema.json"})
"""Paths that the server's own application answers: BentoML's or, under `tuneport serve`, that of standalone.py."""


def configure_server(
    settings: Settings,
    app: ASGIApp,
    refuse: Refuse | None,
    drain: Callable[[], Awaitable[None]],
    hurry: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Set the server's timeouts and application, and make SIGTERM and SIGINT await `drain` before it closes its port.

    Requests go to `app`, those for `PROBE_PATHS` to the application that the server was created with, unless `refuse`
    has a response to them. A further SIGINT ends all requests at once and calls `hurry`.

    Call it in the event loop while the server starts. Without uvicorn, as in tests, it does nothing.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not isinstance(server, uvicorn.Server):
        return
    server.config.loaded_app = PathSwitch(app, server.config.loaded_app)
    server.config.timeout_keep_alive = settings.keep_alive_s
    server.config.timeout_graceful_shutdown = settings.shutdown_grace_s
    server.config.http_protocol_class = extend_protocol(server.config.http_protocol_class, settings, refuse)
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
            end_by_force_after(stop_limit_s(settings))
            loop.call_soon_threadsafe(lambda: tasks.add(loop.create_task(stop(number))))
        elif number == signal.SIGINT:  # a second Ctrl-C skips the drain and the grace time
            loop.call_soon_threadsafe(stop_now)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


class PathSwitch:
    """Passes `PROBE_PATHS`, and the events of start and stop, to the server's own application; the rest to tuneport's.

    BentoML's layers (OpenTelemetry, timeout, request context, router) take longer than all the rest of a short request.
    """

    def __init__(self, app: ASGIApp, probe_app: ASGIApp) -> None:
        """Take both applications."""
        self._app = app
        self._probe_app = probe_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        is_ours = scope["type"] == "http" and scope["path"] not in PROBE_PATHS
        await (self._app if is_ours else self._probe_app)(scope, receive, send)


def stop_worker(shutdown_grace_s: float) -> None:
    """End this worker as SIGTERM does, without the drain time. Call it in the main thread.

    The supervisor starts another worker.
    """
    signal.raise_signal(signal.SIGTERM)
    end_by_force_after(shutdown_grace_s + FORCED_EXIT_S)


def stop_limit_s(settings: Settings) -> float:
    """Return the seconds after SIGTERM within which a worker has ended, whatever its engine does."""
    return settings.drain_s + settings.shutdown_grace_s + FORCED_EXIT_S


def end_by_force_after(seconds: float) -> None:
    """Have the kernel end this process after some seconds; a later call can only shorten them.

    Call it in the main thread. A thread could not do it while a library holds Python's lock, or while the interpreter
    is being closed.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, left) if left else seconds)


def _replace_listener(loop: asyncio.AbstractEventLoop, server: uvicorn.Server, settings: Settings) -> None:
    """Make the server that uvicorn is about to create bound TLS handshakes and, with several workers, share evenly."""
    create_server = loop.create_server

    async def listen(protocol: Callable[[], Any], *, sock: Any, ssl: Any, backlog: int) -> Any:
        handshake_timeout_s = settings.header_timeout_s if ssl else None
        folder = supervision.run_folder()
        if settings.worker_count == 1 or folder is None:
            return await create_server(
                protocol, sock=sock, ssl=ssl, backlog=backlog, ssl_handshake_timeout=handshake_timeout_s
            )
        counts = ConnectionCounts(folder / "connections", settings.worker_count)
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


def failed_start_exit(error: TuneportError) -> SystemExit:
    """Report why the service cannot start, and return the exit; the command that started it prints the reason."""
    report_failed_start(error)
    return SystemExit(1 if os.environ.get(START_REPORT) else f"error: {error}")


def read_failed_start(report: Path) -> TuneportError | None:
    """Read what `report_failed_start` wrote."""
    with contextlib.suppress(OSError, ValueError):
        problem, remedy = json.loads(report.read_text(encoding="utf-8"))
        return TuneportError(problem, remedy)
    return None
