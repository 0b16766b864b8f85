"""`tuneport predict`."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field

from tuneport.cli.options import with_config
from tuneport.errors import TuneportError
from tuneport.schema.base import Frozen
from tuneport.stages.serve.settings import MAX_THREADS

Inputs = Annotated[list[str] | None, typer.Argument(help="Inputs; read from stdin, one a line, when absent.")]


class PredictConfig(Frozen):
    """How an artifact is opened."""

    artifact: Path
    """An artifact folder that `tuneport export` wrote."""
    variant: str | None = None
    """The variant. Default: TUNEPORT_VARIANT, else the artifact's default variant."""
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS)
    """Processors for inference. Default: TUNEPORT_THREADS, else all that the container grants."""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """Padded tokens of a batch. Default: TUNEPORT_MAX_BATCH_TOKENS, else what the export measured to be best."""


@with_config(PredictConfig, positional="artifact")
def predict(config: PredictConfig, texts: Inputs = None) -> None:
    """Answer inputs, one JSON value a line, in order. An input is a text, or a JSON object if it begins with {.

    Example: tuneport predict artifacts/qa '{"question": "Who won?", "context": "The home team won."}'
    """
    from tuneport.runtime.availability import variant_of_environment
    from tuneport.runtime.predictor import Predictor
    from tuneport.schema.loading import load_manifest
    from tuneport.stages.serve.settings import read_engine_settings

    if sys.stdout is None or (sys.stdin is None and not texts):
        raise TuneportError("a standard stream is closed", "redirect it to a file, or to /dev/null")
    settings = read_engine_settings()
    predictor = Predictor(
        config.artifact,
        config.variant or variant_of_environment(load_manifest(config.artifact), settings.variant),
        threads=config.threads or settings.threads,
        max_batch_tokens=config.max_batch_tokens or settings.max_batch_tokens,
    )
    inputs = (_parse(text, f"input {i}") for i, text in enumerate(texts, 1)) if texts else _read_stdin()
    _print_lines(predictor.predict_stream(map(predictor.task.read_local, inputs)))


def _print_lines(predictions: Iterator[Any]) -> None:
    """Print one JSON value a line; a reader that closes the pipe, such as `head`, is no error."""
    try:
        for prediction in predictions:
            print(json.dumps(prediction, ensure_ascii=False))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # typer would exit with 1
            raise typer.Exit(0) from error
        raise TuneportError(f"the answers cannot be written ({error.strerror})", "send them elsewhere") from error


def _read_stdin() -> Iterator[Any]:
    """Yield an input for each line of stdin."""
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise TuneportError(f"line {number} of stdin is not UTF-8", "convert it with iconv") from error
        yield _parse(line, f"line {number} of stdin")


def _parse(text: str, position: str) -> Any:
    """Parse an input: JSON if it begins with `{`, else a text. `position` names it in error messages."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        remedy = 'write {"text": "…"}, or a text that does not start with {'
        raise TuneportError(f"{position} is not JSON ({error})", remedy) from error
