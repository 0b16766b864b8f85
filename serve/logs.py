"""Structured logs: one JSON object a line on standard error. Inputs of requests are logged only where that is set.

A log that cannot be written is lost and fails nothing.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import random
import re
import select
import traceback
from collections import deque
from datetime import UTC, datetime
from typing import Any

import orjson

LOGGER = logging.getLogger("tuneport")
REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
OWN_FIELDS = "tuneport_fields"
PID = os.getpid()
STDERR = 2
WRITE_AFTER_S = 0.01
"""How long lines of requests are collected: a write costs more than all else of a line."""
_pending: deque[bytes] = deque()


class JsonLines(logging.Formatter):
    """Formats a record as JSON; an exception as its type and location, since its message may quote a request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "worker": os.getpid(),
            **({} if record.name == LOGGER.name else {"logger": record.name}),
            **getattr(record, OWN_FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1]:
            content["exception"] = record.exc_info[0].__name__ if record.exc_info[0] else ""
            frames = traceback.extract_tb(record.exc_info[2])[-8:]
            content["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return orjson.dumps(content, default=str).decode()


class LineHandler(logging.Handler):
    """Writes each record with `write_line`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; what cannot be formatted is left out."""
        with contextlib.suppress(Exception):
            write_line(self.format(record).encode())


def set_up() -> None:
    """Send the logger `tuneport` to standard error as JSON, and nowhere else."""
    LOGGER.handlers = [_handler()]
    LOGGER.propagate = False
    LOGGER.setLevel(logging.INFO)


def set_up_process() -> None:
    """Send all loggers of this process, and Python's warnings, to standard error as JSON."""
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.root.handlers = [_handler()]
    logging.captureWarnings(True)
    set_up()


def write_line(line: bytes) -> None:
    """Write a line to standard error, after those that wait."""
    _pending.append(line)
    write_pending()


def write_pending() -> None:
    """Write the lines that wait, as many as fit into one piece of a pipe at a time.

    If the disk is full, or nobody reads them, they are lost.
    """
    while piece := _next_piece():
        rest = memoryview(piece)
        with contextlib.suppress(OSError, ValueError):
            while rest:
                if not _is_writable(STDERR):
                    break
                rest = rest[os.write(STDERR, rest[: select.PIPE_BUF]) :]


def _next_piece() -> bytes:
    """Take one line of those that wait, and more that fit into `PIPE_BUF` with it; nothing if none waits."""
    piece = b""
    with contextlib.suppress(IndexError):  # there is none, or another thread has just taken it
        while not piece or len(piece) + len(_pending[0]) < select.PIPE_BUF:
            piece += _pending.popleft() + b"\n"
    return piece


def _is_writable(file: int) -> bool:
    """Tell whether a pipe takes `PIPE_BUF` bytes without waiting for its reader; a file always does."""
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


def _handler() -> logging.Handler:
    handler = LineHandler()
    handler.setFormatter(JsonLines())
    return handler


def log(event: str, level: int = logging.INFO, *, exc_info: Any = None, **fields: Any) -> None:
    """Log an event with its fields."""
    LOGGER.log(level, event, exc_info=exc_info, extra={OWN_FIELDS: fields})


def log_request(**fields: Any) -> None:
    """Log a request in the format of `log`, without `logging`, which would take as long as a short request.

    In an event loop the line is written within `WRITE_AFTER_S`, together with those of other requests.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = orjson.dumps({"time": now, "level": "info", "event": "request", "worker": PID, **fields}, default=str)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        write_line(line)
        return
    _pending.append(line)
    _timers.start(loop)


class _Timers:
    """Starts one timer at a time to write the lines that wait, in the event loop that runs."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(WRITE_AFTER_S, self._write)

    def _write(self) -> None:
        self._loop = None
        write_pending()


_timers = _Timers()
atexit.register(write_pending)


def request_id(header: str | None) -> str:
    """Return the caller's request id if it is safe to log, else a new one."""
    return header if header and REQUEST_ID.fullmatch(header) else f"{random.getrandbits(64):016x}"
