"""Regression at the gate: Pearson's correlation with the true scores, the mean over targets."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from export.checkpoint import Checkpoint
from export.manifest import Processing
from export.tasks.texts import TextTask
from serve.batcher import Result
from serve.tasks import Task as ServingTask
from serve.tokenizer import Row, Text


class Task(TextTask):
    """Rows of `text` (`text_pair`) with `score`, a number or a list of them."""

    metric: ClassVar = "pearson"
    lower_is_better: ClassVar = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Count the targets."""
        super().__init__(checkpoint)
        self._targets = len(checkpoint.labels)
        self.columns = (*self.columns, "score")

    def processing(self) -> Processing:
        """Say that inputs are cut at the maximum."""
        return self.base_processing().model_copy(update={"problem_type": "regression"})

    def read(self, row: dict[str, Any]) -> tuple[Any, Any]:
        """Return text or pair, and the right scores."""
        scores = row["score"] if isinstance(row["score"], list) else [row["score"]]
        try:
            values = [float(score) for score in scores]
        except (TypeError, ValueError) as error:
            raise ValueError(f"score {row['score']!r} is not a number") from error
        if len(values) != self._targets or not np.isfinite(values).all():
            raise ValueError(f"score {row['score']!r} is not {self._targets} finite number(s)")
        return self.text_of(row), values

    def score(
        self,
        serving: ServingTask,
        given: Sequence[Text],
        windows: Sequence[Sequence[Row]],
        results: Sequence[Sequence[Result]],
        targets: Sequence[list[float]],
    ) -> float:
        """Return the correlation; 0 where either side does not vary."""
        ours = np.stack([each[0]["logits"] for each in results]).astype(np.float64)
        return float(np.mean([_pearson(a, b) for a, b in zip(ours.T, np.array(targets).T, strict=True)]))


def _pearson(ours: Any, theirs: Any) -> float:
    if len(ours) < 2 or not ours.std() or not theirs.std():
        return 0.0
    return float(np.corrcoef(ours, theirs)[0, 1])
