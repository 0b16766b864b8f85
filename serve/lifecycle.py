"""A worker's start and end: what uvicorn leaves to set, a stop that drains, and a failed start that is seen.

BentoML makes the uvicorn server itself and passes few settings on, so a worker finds it by its signal handler.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import uvicorn

from export.files import TuneportError
from serve.settings import START_REPORT, Settings

HTTP2_UPGRADE = re.compile(rb"(?<=\r\n)upgrade:[ \t]*h2c[ \t]*\r\n", re.IGNORECASE)
METHODS = (b"POST ", b"GET ", b"PUT ", b"OPTIONS ")


def take_over(settings: Settings, drain: Callable[[], Awaitable[None]]) -> None:
    """Set the server's timeouts, and let a signal to stop run `drain` before the server closes its port.

    Call it in the event loop while the server starts. Outside of uvicorn (in tests) there is nothing to do.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not isinstance(server, uvicorn.Server):
        return
    server.config.timeout_keep_alive = settings.idle_timeout_s
    server.config.timeout_graceful_shutdown = settings.grace_s
    server.config.http_protocol_class = _impatient(server.config.http_protocol_class, settings.header_timeout_s)
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
        elif number == signal.SIGINT:  # whoever asks twice does not want to wait
            server.handle_exit(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def report_failed_start(error: TuneportError) -> None:
    """Say why this worker cannot start; if none ever could, end the supervisor, which would try for ever."""
    if path := os.environ.get(START_REPORT):
        Path(path).write_text(json.dumps([error.problem, error.remedy]), encoding="utf-8")
    supervisor = _supervisor()
    if supervisor and not _was_ready(supervisor):
        supervisor.terminate()


def report_ready() -> None:
    """Note that a worker of this supervisor could start: from now on a failing one does not end the others."""
    if supervisor := _supervisor():
        _marker(supervisor).touch()


def read_failed_start(report: Path) -> TuneportError | None:
    """Read what `report_failed_start` wrote."""
    with contextlib.suppress(OSError, ValueError):
        problem, remedy = json.loads(report.read_text(encoding="utf-8"))
        return TuneportError(problem, remedy)
    return None


class _Impatient(asyncio.Protocol):
    """Closes a connection whose headers don't arrive in time, for which uvicorn waits for ever; over httptools'."""

    patience_s: float
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _patience: asyncio.TimerHandle | None = None

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
        self._patience = self.loop.call_later(self.patience_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def _impatient(protocol: Any, timeout_s: float) -> Any:
    """Put the above over uvicorn's protocol; h11's has no callbacks to hold on to."""
    if not hasattr(protocol, "on_headers_complete"):
        return protocol
    return type("Impatient", (_Impatient, protocol), {"patience_s": timeout_s})


def _without_upgrade(data: bytes) -> bytes:
    """Take the offer of HTTP/2, which Java's client makes in passing, out of a request's head.

    httptools would take what follows the head for HTTP/2, and uvicorn would lose it.
    """
    if not data.startswith(METHODS) or not HTTP2_UPGRADE.search(data):
        return data
    head, border, body = data.partition(b"\r\n\r\n")
    return HTTP2_UPGRADE.sub(b"", head + border) + body


def _supervisor() -> psutil.Process | None:
    """Find BentoML's process above this worker."""
    with contextlib.suppress(psutil.Error):
        if "_bentoml_impl.worker.service" in psutil.Process().cmdline():
            return psutil.Process(os.getppid())
    return None


def _marker(supervisor: psutil.Process) -> Path:
    import tempfile

    return Path(tempfile.gettempdir()) / f"tuneport-{os.getuid()}-{supervisor.pid}-{int(supervisor.create_time())}"


def _was_ready(supervisor: psutil.Process) -> bool:
    return _marker(supervisor).exists()
