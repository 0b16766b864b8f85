"""Options of the commands: those that config classes declare, and those that several commands share."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from tuneport.cli.fields import argument, option, parse

Command = Callable[..., None]

Artifact = Annotated[Path, typer.Argument(help="An artifact folder that `tuneport export` wrote.")]
MoreArtifacts = Annotated[
    list[Path] | None, typer.Argument(help="Further artifacts, each of which serves by its name.")
]
Out = Annotated[Path, typer.Option(help="Folder to write; must not exist unless --overwrite.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out if it holds a result of the same kind.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress on standard error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what was interrupted, with the same settings.")]
SECRET_KEY = typer.Option("--secret-key", help="Secret key of minisign's, or of `tuneport keygen`.")
PublicKey = Annotated[
    str | None,
    typer.Option(
        "--public-key", help="Key of the signature that must be there: minisign's .pub file, or its last line."
    ),
]
AdminKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="TUNEPORT_ADMIN_KEYS",
        help="Administrator's key; the variable is safer. Of several the first is sent.",
    ),
]
SettingsFile = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
SetValues = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting; names as in TrainingArguments. Repeatable."),
]


def with_config(
    config_class: type[BaseModel], positional: str | tuple[str, ...], *, is_required: bool = True
) -> Callable[[Command], Command]:
    """Give a command one option for each field of a config; the command receives the config as `config`.

    `positional` names the field, or the fields, that are positional arguments; unless they are `is_required`, the
    command receives None without them. Values that the config refuses are usage errors.
    """
    fields = config_class.model_fields
    arguments = (positional,) if isinstance(positional, str) else positional

    def build(values: Mapping[str, Any]) -> BaseModel | None:
        if not is_required and all(values[name] is None for name in arguments):
            return None
        try:
            return config_class.model_validate(parse(fields, values))
        except ValidationError as error:
            raise usage_error(error) from error

    parameters = [argument(name, fields[name], is_required=is_required) for name in arguments]
    parameters += [
        option(name, field, is_required=field.is_required()) for name, field in fields.items() if name not in arguments
    ]
    return functools.partial(_with_parameters, name="config", parameters=parameters, build=build)


def with_flags(config_class: type[BaseModel], names: Collection[str]) -> Callable[[Command], Command]:
    """Give a command options for some fields of a config; the command receives those that were given as `flags`.

    `flags` maps field names to values that are not validated yet.
    """
    fields = {name: config_class.model_fields[name] for name in names}
    parameters = [option(name, field) for name, field in fields.items()]
    return functools.partial(
        _with_parameters, name="flags", parameters=parameters, build=functools.partial(parse, fields)
    )


def check_flags(config_class: type[BaseModel], flags: Mapping[str, Any]) -> None:
    """Validate flags one by one, where the other fields come from elsewhere; a wrong one is a usage error."""
    for name, value in flags.items():
        field = config_class.model_fields[name]
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            raise usage_error(error, name) from error


def usage_error(error: ValidationError, field: str | None = None) -> typer.BadParameter:
    """Return the usage error that names each wrong option; `field` is set where one value was validated alone."""
    problems = []
    for each in error.errors():
        name = field or (str(each["loc"][0]) if each["loc"] else None)
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] == "missing":
            problems.append(f"--{name.replace('_', '-')} is required" if name else message)
            continue
        problems.append(f"--{name.replace('_', '-')}: {message}, not {each['input']!r}" if name else message)
    return typer.BadParameter("; ".join(problems))


def _with_parameters(
    command: Command, *, name: str, parameters: list[inspect.Parameter], build: Callable[[Mapping[str, Any]], Any]
) -> Command:
    """Replace the parameter `name` of a command by others; `build` computes its value from theirs."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        own_values = {each.name: values.pop(each.name) for each in parameters}
        command(**{name: build(own_values)}, **values)

    signature = inspect.signature(command, eval_str=True)
    kept = [each.replace(kind=each.KEYWORD_ONLY) for each in signature.parameters.values() if each.name != name]
    required = [each for each in kept if each.default is each.empty]
    ordered = [*required, *parameters, *(each for each in kept if each not in required)]
    run.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in ordered}
    return run
