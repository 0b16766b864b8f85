"""One module a task, each with a class `Task` that does for it what `Task` here says."""

import importlib
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from finetune.config import FinetuneConfig
from finetune.data import Data
from finetune.evaluate import Evaluation

Loss = Callable[[Any, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""From the model's outputs, the targets, and the number of targets in the accumulated batch."""


class Task(Protocol):
    """What `finetune.train` asks of a task. An instance knows the data and the settings of one run."""

    required: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]]
    """The data's columns."""
    best_metric: ClassVar[str]
    """The metric that tells checkpoints apart."""
    greater_is_better: ClassVar[bool]
    generates: ClassVar[bool]
    """Whether evaluation generates text (and so needs Seq2SeqTrainer)."""
    labels: tuple[str, ...]
    """Names of the model's outputs, in order; empty for tasks without."""

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check every row of every split; a DataError lists what is wrong."""

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer, or the feature extractor with its tokenizer."""

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the base model with this task's head."""

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Turn a split into model inputs, unpadded, with targets in `labels` and a `length` column.

        A bool column `cut` may tell rows that were shortened; the run warns of their number.
        """

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Make the function that pads examples to a batch."""

    def loss(self) -> Loss | None:
        """Return a loss of the task's own, where its settings ask for one that the model does not have."""

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Compute metrics, and what a report shows, from the model's outputs on a whole split.

        `outputs` and `targets` are numpy arrays padded with -100, in the order of `features`; `rows` is the split
        as it was read, `features` as it was encoded.
        """


def first_output(logits: Any, labels: Any = None) -> Any:
    """Return the logits of a batch, without the states that some models put behind them."""
    return logits[0] if isinstance(logits, tuple) else logits


@runtime_checkable
class Reduces(Protocol):
    """A task whose logits are too large to hold for a whole split: batch by batch they become something small."""

    def reduce(self, logits: Any, labels: Any) -> Any:
        """Turn a batch's logits into what `evaluate` gets as outputs; the first dimension stays the rows."""


@runtime_checkable
class Counts(Protocol):
    """A task that knows how often train has each label."""

    counts: Counter[str]
    labels: tuple[str, ...]


def task_class(name: str) -> type[Task]:
    """Import the module of a task and return its class."""
    module = importlib.import_module(f"finetune.tasks.{name.replace('-', '_')}")
    return module.Task
