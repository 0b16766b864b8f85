"""Writes values as TOML."""

import json
from typing import Any

DELETE = "\x7f"
"""JSON allows this character in strings, TOML does not."""


def to_toml(value: Any) -> str:
    """Write a value as TOML, which differs from JSON only in its tables and one character."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {to_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False).replace(DELETE, "\\u007f")
