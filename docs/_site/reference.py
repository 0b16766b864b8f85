"""Reference pages from the code: settings classes, the commands' options, and signatures with their docstrings."""

import inspect
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic_core import PydanticUndefined

import tuneport
from tuneport.cli.app import app
from tuneport.client import AsyncClient, Client
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.serve.settings import Settings

GENERATED = "Generated from the code when this site is built.\n\n"


def settings_page() -> str:
    """List the settings of the service, of fine-tuning and of the export."""
    service = {f"TUNEPORT_{name.upper()}": field for name, field in Settings.model_fields.items()}
    sections = (
        ("Service", "Environment variables; `tuneport serve` has them as options, too.", service),
        ("Fine-tuning", "Keys of `--config F.toml` and of `--set KEY=VALUE`.", FinetuneConfig.model_fields),
        ("Export", "Options of `tuneport export` and keywords of `tuneport.export`.", ExportConfig.model_fields),
    )
    text = "\n".join(f"## {title}\n\n{about}\n\n{_table(fields)}" for title, about, fields in sections)
    return f"# Every setting\n\n{GENERATED}{text}"


def _table(fields: Any) -> str:
    lines = ["| name | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        cells = (f"`{name}`", _type(field.annotation), _default(default), field.description or "")
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(each) for each in arguments if each is not types.NoneType)
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"{_type(arguments[0])} → {_type(arguments[1])}"
    if arguments:
        return _type(arguments[0])
    return getattr(annotation, "__name__", str(annotation))


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    return "" if value is None or value == () or value == {} or value == "" else f"`{value}`"


def options_page() -> str:
    """List the options of every command."""
    group: Any = typer.main.get_command(app)
    return "# Every option\n\n" + GENERATED + "".join(_command(name, each) for name, each in group.commands.items())


def _command(name: str, command: Any) -> str:
    lines = [f"## tuneport {name}\n", (command.help or "").strip() + "\n", "| option | meaning |", "|---|---|"]
    for parameter in command.params:
        spelling = ", ".join(parameter.opts) if parameter.param_type_name == "option" else parameter.name.upper()
        cells = (f"`{spelling}`", " ".join((parameter.help or "").split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines) + "\n\n"


def python_page() -> str:
    """Show signatures and docstrings of the public functions and of the clients' methods."""
    functions = [getattr(tuneport, name) for name in ("finetune", "export", "load")]
    parts = [_callable(f"tuneport.{each.__name__}", each) for each in functions]
    for kind in (Client, AsyncClient):
        parts.append(
            f"## tuneport.{kind.__name__}\n\n{_docstring(kind)}\n\n{_callable(kind.__name__, kind.__init__, 3)}"
        )
        parts += [_callable(f"{kind.__name__}.{name}", each, 3) for name, each in _methods(kind)]
    return "# Python signatures\n\n" + GENERATED + "\n".join(parts)


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    for name, each in vars(kind).items():
        if not name.startswith("_") and callable(each):
            yield name, each


def _callable(name: str, function: Any, level: int = 2) -> str:
    signature = inspect.signature(function)
    kept = [each for each in signature.parameters.values() if each.name != "self"]
    kind = "async " if inspect.iscoroutinefunction(function) else ""
    shown = (
        str(signature.replace(parameters=kept)).replace("'", "").replace("collections.abc.", "").replace("typing.", "")
    )
    wrapped = shown if len(shown) < 100 else "(\n    " + shown[1:].replace(", ", ",\n    ").replace(") ->", "\n) ->")
    return f"{'#' * level} {name}\n\n```text\n{kind}{name}{wrapped}\n```\n\n{_docstring(function)}\n"


def _docstring(of: Any) -> str:
    return inspect.getdoc(of) or ""
