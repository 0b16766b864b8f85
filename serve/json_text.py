"""Parse JSON of a bounded number of values: a few megabytes of brackets would stop the process for seconds."""

import re
from typing import Any

import orjson

from tuneport.errors import MalformedRequest, PayloadTooLarge

MAX_CONTAINERS = 2**14
"""Lists and objects of one request."""
MAX_VALUES = 2**17
"""Values in them: as many as a long text has words. So many are parsed and freed in about 50 ms."""
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def parse_json(text: bytes | memoryview) -> Any:
    """Parse JSON; raises PayloadTooLarge for too many values, before they are built, and MalformedRequest."""
    text = bytes(text)
    check_values(text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        remedy = 'send {"inputs": […]} as UTF-8'
        raise MalformedRequest(f"the body is not JSON: {error}", remedy, code="not_json") from error


def check_values(text: bytes) -> None:
    """Raise PayloadTooLarge if a JSON text has too many values."""
    if _containers(text) <= MAX_CONTAINERS and _separators(text) <= MAX_VALUES:
        return
    # Now without those inside of strings, which a text may have by the thousand.
    containers = separators = position = 0
    for string in STRING.finditer(text):
        between = text[position : string.start()]
        containers, separators = containers + _containers(between), separators + _separators(between)
        _check_counts(containers, separators)
        position = string.end()
    _check_counts(containers + _containers(text[position:]), separators + _separators(text[position:]))


def _containers(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _separators(text: bytes) -> int:
    return text.count(b",")


def _check_counts(containers: int, separators: int) -> None:
    if containers > MAX_CONTAINERS or separators > MAX_VALUES:
        problem = f"the request has over {MAX_CONTAINERS} lists and objects, or over {MAX_VALUES} values"
        raise PayloadTooLarge(problem, "send several smaller requests", code="too_many_values")
