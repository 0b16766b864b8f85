"""Count a message's fields before it is parsed: millions of empty ones would stop the process for half a second."""

from collections.abc import Mapping
from typing import Any

from tuneport.errors import PayloadTooLarge

NESTED: Mapping[int, Any] = {5: {4: {}, 5: {}}, 6: {2: {}}}
"""Fields of ModelInferRequest that are messages with repeated fields: inputs (parameters, contents), outputs
(parameters)."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
MIN_FIELD_BYTES = 2
"""An empty field: its tag and its length."""


def check_fields(raw: bytes, limit: int) -> None:
    """Raise PayloadTooLarge for a ModelInferRequest with more fields than `limit`, at the first one too many.

    What is malformed is left to the parser.
    """
    if len(raw) <= MIN_FIELD_BYTES * limit:  # most messages: they have no room for so many
        return
    count = 0
    pending: list[tuple[int, int, Mapping[int, Any]]] = [(0, len(raw), NESTED)]
    while pending:
        position, end, nested = pending.pop()
        while position < end:
            count += 1
            if count > limit:
                problem = f"the message has over {limit} fields"
                raise PayloadTooLarge(problem, "send several smaller requests", code="too_many_values")
            tag, position = _varint(raw, position)
            number, kind = tag >> 3, tag & 7
            if kind == BYTES:
                size, position = _varint(raw, position)
                if number in nested and position + size <= end:
                    pending.append((position, position + size, nested[number]))
                position += size
            elif kind == VARINT:
                _, position = _varint(raw, position)
            elif kind in (FIXED64, FIXED32):
                position += 8 if kind == FIXED64 else 4
            else:
                return


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """Read a number; returns it and the position behind it."""
    value = 0
    for index, byte in enumerate(raw[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    return value, len(raw)
