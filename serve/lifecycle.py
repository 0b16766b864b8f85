"""Start and stop of a worker: uvicorn's timeouts, a graceful shutdown, and the report of a failed start.

BentoML creates the uvicorn server itself and passes few settings on, so a worker finds it by its signal handler.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import uvicorn

from tuneport.errors import TuneportError

from .settings import START_REPORT, Settings

HTTP2_UPGRADE = re.compile(rb"(?<=\r\n)upgrade:[ \t]*h2c[ \t]*\r\n", re.IGNORECASE)
FORCED_EXIT_S = 5.0
METHODS = (b"POST ", b"GET ", b"PUT ", b"OPTIONS ")


def install_shutdown_hooks(settings: Settings, drain: Callable[[], Awaitable[None]]) -> None:
    """Set the server's timeouts, and make SIGTERM and SIGINT await `drain` before the server closes its port.

    Call it in the event loop while the server starts. Without uvicorn, as in tests, it does nothing.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not isinstance(server, uvicorn.Server):
        return
    server.config.timeout_keep_alive = settings.keep_alive_s
    server.config.timeout_graceful_shutdown = settings.shutdown_grace_s
    server.config.http_protocol_class = with_header_timeout(
        server.config.http_protocol_class, settings.header_timeout_s
    )
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def stop(number: int) -> None:
        try:
            await drain()
        finally:
            server.handle_exit(number, None)

    def on_signal(number: int, frame: Any) -> None:
        if not tasks:
            loop.call_soon_threadsafe(lambda: tasks.add(loop.create_task(stop(number))))
        elif number == signal.SIGINT:  # a second Ctrl-C skips the drain
            server.handle_exit(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def stop_worker(shutdown_grace_s: float) -> None:
    """End this worker as SIGTERM does; by force some seconds after the grace time, because a lost GPU may block it.

    Call it in the main thread. BentoML's supervisor starts another worker.
    """
    timer = threading.Timer(shutdown_grace_s + FORCED_EXIT_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
    signal.raise_signal(signal.SIGTERM)


def report_failed_start(error: TuneportError) -> None:
    """Write why this worker cannot start; end the supervisor if no worker ever started, as it would retry forever."""
    if path := os.environ.get(START_REPORT):
        Path(path).write_text(json.dumps([error.problem, error.remedy]), encoding="utf-8")
    supervisor = _supervisor()
    if supervisor and not _was_ready(supervisor):
        supervisor.terminate()


def report_ready() -> None:
    """Record that a worker of this supervisor started: from now on one that fails does not end the others."""
    if supervisor := _supervisor():
        _marker(supervisor).touch()


def read_failed_start(report: Path) -> TuneportError | None:
    """Read what `report_failed_start` wrote."""
    with contextlib.suppress(OSError, ValueError):
        problem, remedy = json.loads(report.read_text(encoding="utf-8"))
        return TuneportError(problem, remedy)
    return None


class _HeaderTimeout(asyncio.Protocol):
    """A mixin for uvicorn's httptools protocol: closes a connection whose headers don't arrive in time.

    uvicorn itself waits for them without limit.
    """

    header_timeout_s: float
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(_without_upgrade(data))

    def on_message_begin(self) -> None:
        self._wait_for_headers()
        super().on_message_begin()  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()  # type: ignore[misc]

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

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


def with_header_timeout(protocol: Any, timeout_s: float) -> Any:
    """Add the timeout to uvicorn's HTTP protocol class; its h11 protocol has no callbacks for that and stays."""
    if not hasattr(protocol, "on_headers_complete"):
        return protocol
    return type("HeaderTimeoutProtocol", (_HeaderTimeout, protocol), {"header_timeout_s": timeout_s})


def _without_upgrade(data: bytes) -> bytes:
    """Remove the header `Upgrade: h2c`, which Java's HTTP client sends with every request.

    httptools would read what follows the headers as HTTP/2, and uvicorn would lose the body.
    """
    if not data.startswith(METHODS) or not HTTP2_UPGRADE.search(data):
        return data
    head, separator, body = data.partition(b"\r\n\r\n")
    return HTTP2_UPGRADE.sub(b"", head + separator) + body


def _supervisor() -> psutil.Process | None:
    """Find BentoML's process above this worker."""
    with contextlib.suppress(psutil.Error):
        if "_bentoml_impl.worker.service" in psutil.Process().cmdline():
            return psutil.Process(os.getppid())
    return None


def _marker(supervisor: psutil.Process) -> Path:
    """Return the file that exists once a worker of this supervisor has started."""
    return Path(tempfile.gettempdir()) / f"tuneport-{os.getuid()}-{supervisor.pid}-{int(supervisor.create_time())}"


def _was_ready(supervisor: psutil.Process) -> bool:
    return _marker(supervisor).exists()
