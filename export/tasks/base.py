"""Define what the export needs from a task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tuneport.data.targets import TARGET_COLUMNS
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Processing
from tuneport.tasks import MetricSpec, task_spec

from ..checkpoint import Checkpoint


class ExportTask(ABC):
    """Read data, encode inputs for torch and compute the gate's metric, for one checkpoint.

    A *parsed input* is what the runtime task's `parse_input` returns.
    """

    outputs: ClassVar[tuple[str, ...]]
    """Names of the model's outputs that are compared."""
    columns: tuple[str, ...]
    """Columns that labelled data must have; by default those of the TaskSpec."""
    optional_columns: tuple[str, ...]
    multi_label = False
    """Whether an input may have several labels."""
    example: Any = "Yes."
    """An input on which golden cases are based if there is no data."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint; a CheckpointError if its head does not fit the task."""
        self.checkpoint = checkpoint
        self.spec = task_spec(checkpoint.task)
        self.columns, self.optional_columns = self.spec.columns, self.spec.optional_columns

    @property
    def target_columns(self) -> tuple[str, ...]:
        """Return those of `columns` that the model predicts; empty where inputs are their own targets."""
        return tuple(name for name in self.columns if name in TARGET_COLUMNS)

    @property
    def metric(self) -> MetricSpec:
        """Return the metric that the gate compares."""
        return self.spec.gate_metric_of(multi_label=self.multi_label)

    @abstractmethod
    def processing(self) -> Processing:
        """Return the settings of pre- and post-processing for serving."""

    @abstractmethod
    def read_input(self, row: dict[str, Any]) -> Any:
        """Return a row's input, in the form that requests have; raises ValueError for a value that is none."""

    @abstractmethod
    def read_target(self, row: dict[str, Any]) -> Any:
        """Return a row's target; raises ValueError for one that the model cannot predict."""

    @abstractmethod
    def torch_inputs(self, parsed_inputs: Sequence[Any]) -> dict[str, Any]:
        """Return the arguments of transformers' tokenizer for inputs; for generative models those of `generate`."""

    @abstractmethod
    def score(
        self,
        runtime_task: RuntimeTask,
        parsed_inputs: Sequence[Any],
        windows: Sequence[Sequence[EncodedInput]],
        results: Sequence[Sequence[RowOutputs]],
        targets: Sequence[Any],
    ) -> float:
        """Compute the gate's metric from a model's outputs, `results`, of each window of each input."""

    def with_text(self, text: str, like: Any) -> Any:
        """Return an input with this text; other fields are those of the input `like`."""
        return text

    def set_data_source(self, source: str) -> None:  # noqa: B027 -- optional: only some tasks read files
        """Set the data source that relative paths of rows count from; for tasks whose inputs are files."""

    def golden_inputs(self, inputs: Sequence[Any]) -> list[tuple[str, Any]] | None:
        """Choose golden inputs, each with the name of its batch; None to derive them from texts."""
        return None

    def data_folder(self, source: str) -> Path:
        """Return the folder of a data source."""
        path = Path(source)
        return path if path.is_dir() else path.parent
