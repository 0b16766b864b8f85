"""What fine-tuning asks of a task."""

from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, ClassVar

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from tuneport.data.reader import Data
from tuneport.errors import TuneportError
from tuneport.schema.run import ProblemType, TagScheme
from tuneport.tasks import MetricSpec, TaskSpec, task_spec

from ..config import FinetuneConfig, refuse_unused
from ..evaluate import Evaluation
from ..losses import Loss, count_targets


class FinetuneTask(ABC):
    """Checks, encodes and scores the rows of a task. An instance knows the data and the settings of one run."""

    generates: ClassVar[bool] = False
    """Whether evaluation generates text; else it scores the logits, of language models under teacher forcing."""
    target_columns: ClassVar[tuple[str, ...]] = ("labels",)
    """Encoded columns that the model takes as targets."""
    multi_label: bool = False
    """Whether an input may have several labels."""
    labels: tuple[str, ...] = ()
    """Names of the model's outputs, in order; empty for tasks without labels."""
    problem_type: ProblemType | None = None
    """Of text classification and regression, as in the model's configuration."""
    tag_scheme: TagScheme | None = None
    """Of token classification."""

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Keep the settings; subclasses check every row of every split. A DataError lists what is wrong."""
        refuse_unused(config, by=("task",))
        self.config = config
        self.label_counts: Counter[str] = Counter()
        """Label → rows of train that have it; empty for tasks without labels."""

    @property
    def spec(self) -> TaskSpec:
        """The task's declaration."""
        # Not an attribute: datasets hashes instances to find cached rows, and sets have no fixed order.
        return task_spec(self.config.task)

    @abstractmethod
    def load_processor(self, source: str) -> Any:
        """Load the tokenizer, or the feature extractor with its tokenizer."""

    @abstractmethod
    def load_model(self, source: str) -> PreTrainedModel:
        """Load the base model with this task's head."""

    @abstractmethod
    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Convert a split to model inputs, unpadded, with the target columns and the column `length`, in tokens.

        A bool column `truncated` may mark rows that were shortened; the run warns of their number.
        """

    @abstractmethod
    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Return the function that pads encoded rows to a batch."""

    @abstractmethod
    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Compute the metrics of a whole split, and the details that a report shows.

        `outputs` (those of `reduce_logits`, or generated token ids) and `targets` are numpy arrays padded with
        `IGNORED`, in the order of `features`, the encoded split; `rows` is the split as it was read.
        """

    def loss(self) -> Loss | None:
        """Return the loss function where the settings need another than the model's own."""
        return None

    def count_targets(self, batch: dict[str, Any]) -> torch.Tensor:
        """Count the targets of a batch that its loss is the mean of, int64 of shape ().

        The Trainer weights batches by it, so that a step of several batches has the gradient of one large batch.
        """
        return count_targets(batch[self.target_columns[0]])

    def reduce_logits(self, logits: Any, labels: Any) -> Any:
        """Reduce a batch's logits to what `evaluate` needs, since the logits of a whole split may not fit in memory.

        The first dimension of the result is that of the rows.
        """
        return first_output(logits)

    def best_metric(self) -> MetricSpec:
        """Return the metric that selects checkpoints: `metric_for_best_model`, or the task's own.

        Raises TuneportError for a metric that the task's evaluation does not compute.
        """
        name = self.config.metric_for_best_model or self.spec.best_metric
        metrics = self.spec.metrics_of(multi_label=self.multi_label)
        if name not in metrics:
            problem = f"metric_for_best_model = {name!r} is no metric of this task and data"
            raise TuneportError(problem, f"choose among {', '.join(metrics)}")
        return metrics[name]


def first_output(logits: Any) -> Any:
    """Return the logits of a batch, without the hidden states that some models return after them."""
    return logits[0] if isinstance(logits, tuple) else logits
