"""Checking the inputs of a request; what several tasks share."""

from typing import Any

from export.files import TuneportError
from serve.tokenizer import Text


class InputError(TuneportError):
    """An input of a request is not of the task's shape."""


def read_text(value: Any, *, accepts_pairs: bool) -> Text:
    """Read a string, or an object with `text` and, where the model was trained on pairs, `text_pair`."""
    shape = 'an object with "text" and "text_pair"' if accepts_pairs else 'a string, or an object with "text"'
    fields = {"text": value} if isinstance(value, str) else value
    wanted = {"text", "text_pair"} if accepts_pairs else {"text"}
    if not isinstance(fields, dict) or set(fields) != wanted:
        raise InputError(f"an input is {_describe(value)}", f"send {shape}")
    for name, text in fields.items():
        if not isinstance(text, str):
            raise InputError(f'"{name}" is {_describe(text)}', "send a string")
        if not _is_unicode(text):
            raise InputError(f'"{name}" holds half of a surrogate pair', "send text that is valid Unicode")
    return (fields["text"], fields["text_pair"]) if accepts_pairs else fields["text"]


def _is_unicode(text: str) -> bool:
    """Tell whether a text can be encoded: JSON escapes and command lines can smuggle in what cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _describe(value: Any) -> str:
    if isinstance(value, str):
        return "a string"
    if isinstance(value, dict):
        return f"an object with {sorted(value)}"[:120]
    return {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list"}.get(
        type(value), type(value).__name__
    )
