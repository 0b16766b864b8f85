"""One module a task, each with a class `Task` that does for it what `Task` here says."""

import importlib
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune.config import FinetuneConfig
from finetune.data import Data

Floats = npt.NDArray[np.float32]


class Task(Protocol):
    """What `finetune.train` asks of a task."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    """The data's columns."""
    best_metric: str
    """The metric that tells checkpoints apart."""
    labels: tuple[str, ...]
    """Label names in the order of the model's outputs."""

    def __init__(self, data: Data) -> None:
        """Check every row of every split; a DataError lists what is wrong."""

    def load_model(self, config: FinetuneConfig, source: str) -> PreTrainedModel:
        """Load the base model with this task's head."""

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """Turn a split into model inputs, unpadded, with their targets and a `length` column."""

    def score(self, outputs: Floats, targets: npt.NDArray[Any]) -> dict[str, float]:
        """Compute the task's metrics from the model's outputs on a whole split."""


def task_class(name: str) -> type[Task]:
    """Import the module of a task and return its class."""
    module = importlib.import_module(f"finetune.tasks.{name.replace('-', '_')}")
    return module.Task  # type: ignore[no-any-return]
