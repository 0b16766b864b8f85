"""Fields of a config class as options of the command line: their types, their help, and the parsing of their text."""

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo


def argument(name: str, field: FieldInfo, *, is_required: bool) -> inspect.Parameter:
    """Declare a field as a positional argument; None if it may be left out and is."""
    field_type = option_type(field.annotation)
    annotation: Any = Annotated[field_type if is_required else field_type | None, typer.Argument(help=help_text(field))]
    default = inspect.Parameter.empty if is_required else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def option(name: str, field: FieldInfo, *, is_required: bool = False) -> inspect.Parameter:
    """Declare a field as an option. It is None unless given, so that only the config class declares the default.

    The config class, too, refuses to be without one that `is_required`; the help says so.
    """
    field_type = option_type(field.annotation)
    text = help_text(field) + (" Required." if is_required else "")
    info = typer.Option(metavar=METAVARS.get(field_type), help=text)
    annotation: Any = Annotated[(str if field_type in PARSERS else field_type) | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def option_type(annotation: Any) -> Any:
    """Return the type of a field's value without None and constraints: `tuple` and `dict` without their elements."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return option_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        [value_type] = [each for each in get_args(annotation) if each is not types.NoneType]
        return option_type(value_type)
    return origin if origin in PARSERS else annotation


def help_text(field: FieldInfo) -> str:
    """Return a field's description and default in one line."""
    text = " ".join((field.description or "").split())
    default = _default_text(field.get_default(call_default_factory=True))
    return f"{text} Default: {default}." if default else text


def parse(fields: Mapping[str, FieldInfo], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not None, with the text of tuples and mappings split."""
    parsed = {}
    for name, value in values.items():
        if value is not None:
            parser = PARSERS.get(option_type(fields[name].annotation))
            try:
                parsed[name] = parser(value) if parser else value
            except typer.BadParameter as error:
                raise typer.BadParameter(error.message, param_hint=f"--{name.replace('_', '-')}") from error
    return parsed


def _default_text(default: Any) -> str:
    """Write a default; empty where the description says what happens without a value."""
    if isinstance(default, bool):
        return "on" if default else ""
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default) if isinstance(default, int | str) else ""


def _parse_tuple(text: str) -> tuple[str, ...]:
    """Parse `fp32,int8`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parse_mapping(text: str) -> dict[str, str]:
    """Parse `text=review,label=stars`."""
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not key.strip() or not value.strip() for key, _, value in pairs):
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE,…; write for example text=review,label=stars")
    return {key.strip(): value.strip() for key, _, value in pairs}


PARSERS: dict[Any, Callable[[str], Any]] = {tuple: _parse_tuple, dict: _parse_mapping}
METAVARS: dict[Any, str] = {tuple: "A,B,…", dict: "KEY=VALUE,…"}
