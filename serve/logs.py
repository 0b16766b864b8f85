"""Structured logs: one JSON object a line on standard error. Inputs of requests are logged only where that is set."""

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
    """Formats a record as JSON; an exception as its type and location, since its message may quote a request."""

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
    """Send the logger `tuneport` to standard error as JSON, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    LOGGER.handlers = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(logging.INFO)


def log(event: str, level: int = logging.INFO, *, exc_info: Any = None, **fields: Any) -> None:
    """Log an event with its fields."""
    LOGGER.log(level, event, exc_info=exc_info, extra={OWN_FIELDS: fields})


def log_request(**fields: Any) -> None:
    """Log a request in the format of `log`, without `logging`, which would take as long as a short request."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = orjson.dumps({"time": now, "level": "info", "event": "request", "worker": PID, **fields}, default=str)
    sys.stderr.write(line.decode() + "\n")


def request_id(header: str | None) -> str:
    """Return the caller's request id if it is safe to log, else a new one."""
    return header if header and REQUEST_ID.fullmatch(header) else os.urandom(8).hex()
