"""One module a task, each with a class `Task`: what comes in, and what the outputs mean."""

import importlib
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from export.manifest import Processing
from serve.batcher import Result
from serve.tokenizer import Row, TextTokenizer


class Task(Protocol):
    """What serving asks of a task. An instance knows the labels and the processing of one model."""

    parameters: ClassVar[type[BaseModel]]
    """What a request may ask for under `parameters`."""
    per_token: ClassVar[bool]
    """Whether the outputs have a value for each token, which padding must be cut from."""

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        """Keep what reading and decoding need."""

    def read(self, value: Any) -> Any:
        """Check one input of a request and bring it into the form that `encode` takes; else an InputError."""

    def encode(self, inputs: Sequence[Any]) -> list[list[Row]]:
        """Turn each input into the rows that the engine runs: one, or a window each."""

    def decode(self, given: Any, rows: Sequence[Row], results: Sequence[Result], parameters: Any) -> Any:
        """Turn the results of an input's rows into its prediction, a JSON value."""

    def same(self, prediction: Any, other: Any) -> bool:
        """Tell whether two predictions, made with default parameters, say the same."""


def task_class(name: str) -> type[Task]:
    """Import the module of a task and return its class."""
    module = importlib.import_module(f"serve.tasks.{name.replace('-', '_')}")
    return module.Task
