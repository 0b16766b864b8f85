"""Text classification at the gate: accuracy, or micro-averaged F1 where a text may have several labels."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import f1_score

from export.checkpoint import Checkpoint
from export.files import CheckpointError
from export.manifest import Processing
from export.tasks.texts import TextTask
from serve.batcher import Result
from serve.tasks import Task as ServingTask
from serve.tokenizer import Row, Text


class Task(TextTask):
    """Rows of `text` (`text_pair`) with `label`, or with `labels`."""

    metric = "accuracy"
    lower_is_better: ClassVar = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Tell one label from several; a CheckpointError for a head that is neither's."""
        super().__init__(checkpoint)
        kind = checkpoint.config.problem_type or "single_label_classification"
        if kind == "regression" or (kind == "single_label_classification" and len(checkpoint.labels) < 2):
            said = f"{checkpoint.folder} has a head for {kind} with {len(checkpoint.labels)} label(s)"
            raise CheckpointError(said, "text-classification needs two or more; or export with --task regression")
        self._kind = kind
        self._is_multi_label = kind == "multi_label_classification"
        self._index = {label: i for i, label in enumerate(checkpoint.labels)}
        self.columns = (*self.columns, "labels" if self._is_multi_label else "label")
        if self._is_multi_label:
            self.metric = "f1_micro"

    def processing(self) -> Processing:
        """Say that inputs are cut at the maximum."""
        return self.base_processing().model_copy(update={"problem_type": self._kind})

    def read(self, row: dict[str, Any]) -> tuple[Any, Any]:
        """Return text or pair, and the indices of the right labels."""
        labels = row["labels"] if self._is_multi_label else [row["label"]]
        for label in labels:
            if str(label) not in self._index:
                raise ValueError(f"label {str(label)!r} is not one of the model's {list(self._index)[:20]}")
        return self.text_of(row), [self._index[str(label)] for label in labels]

    def score(
        self,
        serving: ServingTask,
        given: Sequence[Text],
        windows: Sequence[Sequence[Row]],
        results: Sequence[Sequence[Result]],
        targets: Sequence[list[int]],
    ) -> float:
        """Return accuracy, or micro-averaged F1."""
        logits = np.stack([each[0]["logits"] for each in results])
        if not self._is_multi_label:
            return float(np.mean(logits.argmax(-1) == np.array([target[0] for target in targets])))
        expected = np.zeros(logits.shape, bool)
        for row, labels in enumerate(targets):
            expected[row, labels] = True
        return float(f1_score(expected, logits > 0, average="micro", zero_division=0))
