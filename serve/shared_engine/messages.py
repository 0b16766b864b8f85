"""The packets between workers and their engine process; rows and outputs are in shared memory.

A worker sends records of one size, as many as there are in one packet. The engine sends a greeting, then the numbers of
the requests that it has answered, all those of a batch in one packet, and the errors of others.
"""

from enum import IntEnum
from struct import Struct
from typing import Any

import orjson

from tuneport import errors
from tuneport.errors import RequestError

RECORD = Struct("<IIIIQd")
"""Kind, rows, segment, offset or size in items, number of the request, deadline (infinite without one)."""
NUMBER = Struct("<Q")
MAX_RECORDS = 1024
"""Records or numbers in one packet."""
PACKET_BYTES = 64 * 1024
MAX_TEXT_CHARS = 1000


class Kind(IntEnum):
    """What a record asks for."""

    SUBMIT = 1
    """Run the rows of a block."""
    CANCEL = 2
    """Forget a request whose client left."""
    ADD_SEGMENT = 3
    """Map a segment, whose descriptor comes with the packet."""
    DROP_SEGMENT = 4


class Answer(IntEnum):
    """First byte of the engine's packets."""

    GREETING = 1
    DONE = 2
    FAILED = 3


class ModelFailed(Exception):
    """An exception of the engine, in the worker; the engine process has logged where it was raised."""


def encode_error(number: int, error: BaseException) -> bytes:
    """Return the packet for a request that failed."""
    content: dict[str, Any] = {"kind": type(error).__name__}
    if isinstance(error, RequestError):
        content |= {
            "problem": error.problem[:MAX_TEXT_CHARS],
            "remedy": error.remedy[:MAX_TEXT_CHARS],
            "code": error.code,
            "retry_after_s": error.retry_after_s,
        }
    return bytes([Answer.FAILED]) + NUMBER.pack(number) + orjson.dumps(content)


def decode_error(packet: bytes) -> tuple[int, Exception]:
    """Return the request's number and the exception, which has the class that it had in the engine."""
    (number,) = NUMBER.unpack_from(packet, 1)
    content = orjson.loads(packet[1 + NUMBER.size :])
    if content["kind"] in ("TimeoutError", "CancelledError"):
        return number, TimeoutError()
    if "problem" not in content:
        return number, type(content["kind"], (ModelFailed,), {})()
    kind = getattr(errors, content["kind"], RequestError)
    error: RequestError = kind.__new__(kind)
    RequestError.__init__(error, content["problem"], content["remedy"], content["code"])
    error.retry_after_s = content["retry_after_s"]
    return number, error


def encode_done(numbers: list[int]) -> bytes:
    """Return the packet for requests whose outputs are in their blocks."""
    return bytes([Answer.DONE]) + Struct(f"<{len(numbers)}Q").pack(*numbers)


def decode_done(packet: bytes) -> tuple[int, ...]:
    """Return the numbers of the requests."""
    return Struct(f"<{(len(packet) - 1) // NUMBER.size}Q").unpack_from(packet, 1)
