"""Checks of a request's inputs that several tasks share."""

import itertools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from tuneport.errors import InputError
from tuneport.runtime.tokenizer import Text

MAX_ITEMS = 64
"""Tensors or parameters of a request, at most: far more than any model has, and few enough to check one by one."""


class Parameters(BaseModel):
    """The base of every task's parameters: strict types, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, values: Any) -> Any:
        """Read 2.0 as the integer that it is in JSON."""
        if not isinstance(values, dict):
            return values
        return {
            name: int(value) if type(value) is float and value.is_integer() else value for name, value in values.items()
        }


def check_number(count: int, name: str) -> None:
    """Raise InputError for more items than a request can need, before they are checked one by one."""
    if count > MAX_ITEMS:
        raise InputError(f"the request has {count} {name}", f"send at most {MAX_ITEMS}")


def read_text(value: Any, *, accepts_pairs: bool, accepts_single_texts: bool = False) -> Text:
    """Return the text of a string or of an object with `text`; of one with `text_pair`, too, where `accepts_pairs`.

    With `accepts_single_texts` both are accepted.
    """
    is_pair = isinstance(value, Mapping) and "text_pair" in value
    if accepts_single_texts:
        accepts_pairs = is_pair
    if is_pair and not accepts_pairs:
        remedy = 'send "text" alone, or export with --data that has the column text_pair'
        raise InputError("an input has a text_pair, and this model was exported for single texts", remedy)
    shape = 'an object with "text" and "text_pair"' if accepts_pairs else 'a string, or an object with "text"'
    fields = {"text": value} if isinstance(value, str) else value
    texts = read_strings(fields, ("text", "text_pair") if accepts_pairs else ("text",), shape, value=value)
    return (texts[0], texts[1]) if accepts_pairs else texts[0]


def read_strings(fields: Any, names: tuple[str, ...], shape: str, *, value: Any = None) -> list[str]:
    """Return the strings of an object that has exactly the fields `names`.

    The InputError describes `value`, the whole input, where `fields` is only a part of it.
    """
    if not isinstance(fields, Mapping) or set(fields) != set(names):
        raise InputError(f"an input is {describe(fields if value is None else value)}", f"send {shape}")
    return [check_text(fields[name], name) for name in names]


def check_text(text: Any, name: str) -> str:
    """Return a field's text; an InputError if it is not valid Unicode, which JSON escapes and command lines allow."""
    if not isinstance(text, str):
        raise InputError(f'"{name}" is {describe(text)}', "send a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f'"{name}" holds half of a surrogate pair', "send text that is valid Unicode") from error
    return text


def describe(value: Any) -> str:
    """Return the kind of a JSON value, for messages."""
    if isinstance(value, str):
        return "a string"
    if isinstance(value, dict):
        return f"an object with {sorted(itertools.islice(value, MAX_ITEMS))}"[:120]
    return {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list"}.get(
        type(value), type(value).__name__
    )
