"""The base of every record and config."""

import difflib
import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneport.errors import TuneportError


class Frozen(BaseModel):
    """A record that refuses unknown fields and never changes; a docstring below a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


def parse_json(text: str) -> Any:
    """Parse JSON that every parser reads the same.

    Raises ValueError for a repeated key, a number that is not finite, and too many levels.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_unique_keys, parse_float=_finite_number, parse_constant=_finite_number
        )
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def explain_invalid(error: ValidationError, kind: type[BaseModel]) -> tuple[str, str]:
    """Return what is wrong in fields of a request, the first five of them, and the names of all that `kind` has."""
    wrong = ", ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors()[:5])
    return wrong[:500], ", ".join(kind.model_fields)


def first_problem(error: ValidationError) -> str:
    """Describe the first of pydantic's errors, with where it is: ` at files.0.path: …`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{f' at {where}' if where else ''}: {str(first['msg']).removeprefix('Value error, ')}"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object has the same key twice")
    return content


def settings_error(error: ValidationError, config: type[BaseModel], reference: str) -> TuneportError:
    """Return the TuneportError that names every wrong setting; `reference` is where those of `config` are listed."""
    problems = "; ".join(_describe(details, config) for details in error.errors())
    return TuneportError(f"wrong settings: {problems}", f"{reference} lists them")


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _describe(error: Mapping[str, Any], config: type[BaseModel]) -> str:
    """Describe one of pydantic's errors in a phrase, with the setting that an unknown one may have been meant for."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        longer = [name for name in config.model_fields if name.endswith(f"_{path}")]
        meant = " or ".join(longer or difflib.get_close_matches(path, config.model_fields, n=1))
        return f"{path} is not a setting" + (f" (did you mean {meant}?)" if meant else "")
    if error["type"] == "missing":
        return f"{path} is missing"
    if not path:
        return str(error["msg"]).removeprefix("Value error, ")
    value, message = repr(error["input"]), error["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if message.startswith(value) else f"{path} = {value}: {message.lower()}"
