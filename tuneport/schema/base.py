"""The base of every record and config."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneport.errors import TuneportError


class Frozen(BaseModel):
    """A record that refuses unknown fields and never changes; a docstring below a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


def settings_error(error: ValidationError, reference: str) -> TuneportError:
    """Return the TuneportError that names every wrong setting; `reference` is where all settings are listed."""
    problems = "; ".join(_describe(details) for details in error.errors())
    return TuneportError(f"wrong settings: {problems}", f"{reference} lists them")


def _describe(error: Mapping[str, Any]) -> str:
    """Describe one of pydantic's errors in a phrase."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{path} is not a setting"
    if error["type"] == "missing":
        return f"{path} is missing"
    if not path:
        return str(error["msg"]).removeprefix("Value error, ")
    return f"{path} = {error['input']!r}: {error['msg'].removeprefix('Value error, ').lower()}"
