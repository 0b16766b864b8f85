"""Mutations of JSON files: of their bytes, and of the values in them."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**70), 0.5, -0.0, 1e308, float("inf"), float("-inf"),
    float("nan"), "", " ", "0", "1", "true", "null", "\0", "\ud800", "x" * 5000, "../../../etc/passwd", "/etc/passwd",
    "C:\\x", "..", "manifest.json", "MANIFEST.JSON", "onnx", "onnx/fp32", "tokenizer.json", "nul", "fp32", "int8",
    "openvino", "cuda", "translation", "question-answering", [], {}, [[]], [None], {"": None}, {"a": {"b": []}},
    [0] * 100,
)  # fmt: skip
"""Values to put in the place of others: of another type, at the ends of ranges, or of another meaning."""
TOKENS = (
    b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b'"\\ud800"', b"\x00", b"\xff\xfe",
    b"\xef\xbb\xbf", b'"seal":1,', b",", b"{", b"}", b"]", b"\\u0000", b"//", b"'", b"0x1F", b"01",
)  # fmt: skip


def mutate_bytes(content: bytes, generator: random.Random) -> bytes:
    """Return content with one to three edits."""
    for _ in range(generator.randint(1, 3)):
        start = generator.randrange(len(content) + 1)
        end = min(len(content), start + generator.choice((1, 1, 2, 10, 1000)))
        edit = generator.randrange(5)
        if edit == 0 and start < len(content):
            content = content[:start] + bytes([content[start] ^ (1 << generator.randrange(8))]) + content[start + 1 :]
        elif edit == 1:
            content = content[:start] + content[end:]
        elif edit == 2:
            content = content[:start] + generator.choice(TOKENS) + content[start:]
        elif edit == 3:
            content = content[:end] + content[start:end] + content[end:]
        else:
            content = content[:start] + generator.choice(TOKENS) + content[end:]
    return content


def mutate_value(content: Any, generator: random.Random) -> Any:
    """Return a copy of a JSON value with one to three values replaced, removed, repeated, renamed or exchanged."""
    content = copy.deepcopy(content)
    for _ in range(generator.randint(1, 3)):
        places = list(_places(content))
        parent, key = generator.choice(places)
        edit = generator.randrange(6)
        if edit == 0:
            del parent[key]
        elif edit == 1:
            other, other_key = generator.choice(places)
            parent[key] = copy.deepcopy(other[other_key])
        elif edit == 2 and isinstance(parent, list):
            parent.insert(generator.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
        elif edit == 2:
            parent[generator.choice(("surprise", "seal", "path", "__class__", str(key).upper()))] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(generator.choice(HOSTILE))
        if not content:
            break
    return content


def equal_json(one: Any, other: Any) -> bool:
    """Tell whether two JSON values are the same, types included, though an integer may stand for a float."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal_json, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other) and isinstance(one, str) == isinstance(other, str)


def is_subset(given: Any, loaded: Any) -> bool:
    """Tell whether all that `given` says is in `loaded`, which may have defaults beside it."""
    if isinstance(given, dict) and isinstance(loaded, dict):
        return all(key in loaded and is_subset(value, loaded[key]) for key, value in given.items())
    if isinstance(given, list) and isinstance(loaded, list):
        return len(given) == len(loaded) and all(map(is_subset, given, loaded))
    return equal_json(given, loaded)


def parsed(content: bytes) -> Any:
    """Parse JSON; None for what is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every value of a JSON value, as its container with its key or index."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield value, key
        yield from _places(child)
