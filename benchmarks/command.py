"""What the command lines of the benchmarks have in common."""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tuneport.errors import TuneportError
from tuneport.schema.base import settings_error

Config = TypeVar("Config", bound=BaseModel)


def read_config(kind: type[Config], arguments: Sequence[str] | None, *, prog: str, description: str) -> Config:
    """Parse a command line whose options are the fields of a config, with their defaults and docstrings.

    Exits with 2 for an option that is missing or unknown, and for a wrong value.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    for name, field in kind.model_fields.items():
        default = f"Default: {field.default}." if field.default and not field.is_required() else ""
        parser.add_argument(
            flag_of(name),
            required=field.is_required(),
            default=argparse.SUPPRESS,
            help=f"{field.description or ''} {default}".strip(),
        )
    try:
        return kind.model_validate(vars(parser.parse_args(arguments)))
    except ValidationError as error:
        parser.error(str(settings_error(error, kind, "--help")))


def flag_of(name: str) -> str:
    """Return the option of a field of a config."""
    return f"--{name.replace('_', '-')}"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a TuneportError into one line on standard error and exit code 1."""
    try:
        yield
    except TuneportError as error:
        sys.exit(f"error: {error}")


@contextmanager
def serving_command() -> Iterator[None]:
    """Run a command that starts servers: SIGTERM stops them, and a TuneportError is one line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with one_line_errors():
        yield


def print_progress(line: str) -> None:
    """Write a line of progress to standard error."""
    sys.stderr.write(f"{line}\n")
