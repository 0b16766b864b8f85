"""Checking the inputs of a request; what several tasks share."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from tuneport.errors import InputError
from tuneport.runtime.tokenizer import Text

MOST_NAMED = 64
"""Tensors, or parameters, of a request: far more than any model has, and few enough to look at each."""


class Parameters(BaseModel):
    """The base of every task's parameters: strict, and nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def check_number(count: int, what: str) -> None:
    """Refuse more of a thing than can be meant, before each of them is looked at."""
    if count > MOST_NAMED:
        raise InputError(f"the request has {count} {what}", f"send at most {MOST_NAMED}")


def read_text(value: Any, *, accepts_pairs: bool) -> Text:
    """Read a string, or an object with `text` and, where the model was trained on pairs, `text_pair`."""
    shape = 'an object with "text" and "text_pair"' if accepts_pairs else 'a string, or an object with "text"'
    fields = {"text": value} if isinstance(value, str) else value
    texts = read_strings(fields, ("text", "text_pair") if accepts_pairs else ("text",), shape, given=value)
    return (texts[0], texts[1]) if accepts_pairs else texts[0]


def read_strings(fields: Any, names: tuple[str, ...], shape: str, *, given: Any = None) -> list[str]:
    """Read an object that has just the fields `names`, each of them Unicode text."""
    if not isinstance(fields, Mapping) or set(fields) != set(names):
        raise InputError(f"an input is {describe(fields if given is None else given)}", f"send {shape}")
    return [check_text(fields[name], name) for name in names]


def check_text(text: Any, name: str) -> str:
    """Check that a field holds text that can be encoded: JSON escapes and command lines can smuggle in other."""
    if not isinstance(text, str):
        raise InputError(f'"{name}" is {describe(text)}', "send a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f'"{name}" holds half of a surrogate pair', "send text that is valid Unicode") from error
    return text


def describe(value: Any) -> str:
    """Name the kind of a JSON value."""
    if isinstance(value, str):
        return "a string"
    if isinstance(value, dict):
        return f"an object with {sorted(value)}"[:120]
    return {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list"}.get(
        type(value), type(value).__name__
    )
