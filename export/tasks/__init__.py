"""One module a task, each with a class `Task`: what the data's columns mean to the gate, and how to ask torch."""

import importlib
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from export.manifest import Processing
from serve.batcher import Result
from serve.tasks import Task as ServingTask
from serve.tokenizer import Row


class Task(Protocol):
    """What the export asks of a task. An instance knows one checkpoint.

    A *given* is an input as the task's `read` in `serve.tasks` returns it.
    """

    auto_model: ClassVar[str]
    """The Auto class of transformers that loads the checkpoint."""
    outputs: ClassVar[tuple[str, ...]]
    """The graph's outputs that count."""
    metric: ClassVar[str]
    lower_is_better: ClassVar[bool]
    columns: tuple[str, ...]
    """Those that labelled data must have."""
    example: Any
    """An input, for golden cases where there is no data."""

    def __init__(self, checkpoint: Any) -> None:
        """Read what the checkpoint's configuration says; a CheckpointError if its head does not fit the task."""

    def processing(self) -> Processing:
        """Say what serving has to do before and after the graph."""

    def read(self, row: dict[str, Any]) -> tuple[Any, Any]:
        """Split a row of the data into an input, as a request would bring it, and the right answer.

        Raises ValueError for an answer that the model cannot give.
        """

    def with_text(self, text: str, like: Any) -> Any:
        """Make an input of a text; what else it takes comes from another input, `like`."""

    def for_torch(self, given: Sequence[Any]) -> dict[str, Any]:
        """Return the arguments with which transformers' own tokenizer encodes inputs."""

    def score(
        self,
        serving: ServingTask,
        given: Sequence[Any],
        windows: Sequence[Sequence[Row]],
        results: Sequence[Sequence[Result]],
        targets: Sequence[Any],
    ) -> float:
        """Compute the metric of a model's raw results on labelled data."""


def task_class(name: str) -> type[Task]:
    """Import the module of a task and return its class."""
    module = importlib.import_module(f"export.tasks.{name.replace('-', '_')}")
    return module.Task
