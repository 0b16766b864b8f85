"""Export regression: the metric is Pearson's correlation with the true scores, averaged over the targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneport.metrics.regression import pearson
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tokenizer import Text
from tuneport.schema.artifact import Processing

from ..checkpoint import Checkpoint
from .texts import TextTask


class Task(TextTask):
    """Rows of `text` (`text_pair`) with `score`, a number or a list of them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint and the number of its targets."""
        super().__init__(checkpoint)
        self._targets = len(checkpoint.labels)
        self.columns = (*self.columns, "score")

    def processing(self) -> Processing:
        """Return how texts are truncated and padded."""
        return self.base_processing().model_copy(update={"problem_type": "regression"})

    def read_target(self, row: dict[str, Any]) -> list[float]:
        """Return a row's true scores."""
        scores = row["score"] if isinstance(row["score"], list) else [row["score"]]
        try:
            values = [float(score) for score in scores]
        except (TypeError, ValueError) as error:
            raise ValueError(f"score {row['score']!r} is not a number") from error
        if len(values) != self._targets or not np.isfinite(values).all():
            raise ValueError(f"score {row['score']!r} is not {self._targets} finite number(s)")
        return values

    def score(
        self,
        runtime_task: RuntimeTask,
        parsed_inputs: Sequence[Text],
        windows: Sequence[Sequence[EncodedInput]],
        results: Sequence[Sequence[RowOutputs]],
        targets: Sequence[list[float]],
    ) -> float:
        """Return the correlation; 0 for a constant."""
        predicted = np.stack([windows_outputs[0]["logits"] for windows_outputs in results]).astype(np.float64)
        return pearson(predicted, np.array(targets, np.float64))
