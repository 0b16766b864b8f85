"""Structured logs: one JSON object a line on standard error. Texts of requests only when asked for."""

import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

LOGGER = logging.getLogger("tuneport")
REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
OWN_FIELDS = "tuneport_fields"
PID = os.getpid()


class JsonLines(logging.Formatter):
    """Writes a record as JSON; an exception as its type and place, since its words may quote a request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "worker": os.getpid(),
            **getattr(record, OWN_FIELDS, {}),
        }
        if record.exc_info and record.exc_info[1]:
            content["exception"] = record.exc_info[0].__name__ if record.exc_info[0] else ""
            frames = traceback.extract_tb(record.exc_info[2])[-8:]
            content["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return orjson.dumps(content, default=str).decode()


def set_up() -> None:
    """Send our own logger to standard error as JSON, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    LOGGER.handlers = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(logging.INFO)


def log(event: str, level: int = logging.INFO, *, exc_info: Any = None, **fields: Any) -> None:
    """Log an event with its fields."""
    LOGGER.log(level, event, exc_info=exc_info, extra={OWN_FIELDS: fields})


def log_request(**fields: Any) -> None:
    """Log a request: the same line as `log`'s, without the cost of `logging`, which is that of a short answer."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = orjson.dumps({"time": now, "level": "info", "event": "request", "worker": PID, **fields}, default=str)
    sys.stderr.write(line.decode() + "\n")


def request_id(given: str | None) -> str:
    """Take the caller's id if it is safe to write down, else make one."""
    return given if given and REQUEST_ID.fullmatch(given) else os.urandom(8).hex()
