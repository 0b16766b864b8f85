"""Export text classification: the metric is accuracy, or micro-averaged F1 if inputs may have several labels."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneport.data.rows import preview
from tuneport.errors import CheckpointError
from tuneport.metrics.classification import score_classes, score_multilabel
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tokenizer import Text
from tuneport.schema.artifact import Processing

from ..checkpoint import Checkpoint
from .texts import TextTask

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
TRUTH = ("False", "True")
"""As the reader of data names the values of a boolean column; their places are their numbers."""


class Task(TextTask):
    """Rows of `text` (`text_pair`) with `label`, or with `labels`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Read whether inputs have one label or several; a CheckpointError for a regression head."""
        super().__init__(checkpoint)
        problem_type = checkpoint.facts.problem_type or "single_label_classification"
        is_single = problem_type == "single_label_classification"
        if problem_type == "regression" or (is_single and len(checkpoint.labels) < 2):
            problem = f"{checkpoint.folder} has a head for {problem_type} with {len(checkpoint.labels)} label(s)"
            raise CheckpointError(problem, "text-classification needs two or more; or export with --task regression")
        self._problem_type = problem_type
        self.multi_label = problem_type == "multi_label_classification"
        self._index = {label: i for i, label in enumerate(checkpoint.labels)}
        # In data of other makers a class may be its number; a run has the names of its own data.
        self._by_number = {float(label): i for label, i in self._index.items() if NUMBER.fullmatch(label)}
        self._may_be_numbers = checkpoint.run is None and not self._by_number
        self._folded = {label.casefold(): i for label, i in self._index.items()}
        self.columns = (*self.columns, "labels" if self.multi_label else "label")

    def processing(self) -> Processing:
        """Return how texts are truncated and padded, and the kind of labels."""
        return self.base_processing().model_copy(update={"problem_type": self._problem_type})

    def read_target(self, row: dict[str, Any]) -> list[int]:
        """Return the indices of a row's true labels."""
        labels = row["labels"] if self.multi_label else [row["label"]]
        if not isinstance(labels, list):
            raise ValueError(f"labels is {preview(labels)}, and a list is expected")
        return [self._index_of(label) for label in labels]

    def _index_of(self, label: Any) -> int:
        """Return the index of a label's name, or of a class that is given by its number or as true or false.

        Tables of one data set store 1, 1.0 and true in different ways.
        """
        if str(label) in self._index:
            return self._index[str(label)]
        if isinstance(label, int | float) and label in self._by_number:
            return self._by_number[label]
        if label in TRUTH and label.casefold() in self._folded:
            return self._folded[label.casefold()]
        number = TRUTH.index(label) if label in TRUTH and len(self._index) == len(TRUTH) else label
        if self._may_be_numbers and isinstance(number, int) and 0 <= number < len(self._index):
            return number
        raise ValueError(f"label {preview(label)} is not one of the model's {list(self._index)[:20]}")

    def score(
        self,
        runtime_task: RuntimeTask,
        parsed_inputs: Sequence[Text],
        windows: Sequence[Sequence[EncodedInput]],
        results: Sequence[Sequence[RowOutputs]],
        targets: Sequence[list[int]],
    ) -> float:
        """Return accuracy, or micro-averaged F1."""
        logits = np.stack([each[0]["logits"] for each in results])
        labels = self.checkpoint.labels
        if not self.multi_label:
            expected = np.array([target[0] for target in targets])
            return score_classes(logits.argmax(-1), expected, labels)[0][self.metric.name]
        expected = np.zeros(logits.shape, np.int64)
        for row, chosen in enumerate(targets):
            expected[row, chosen] = 1
        return score_multilabel((logits > 0).astype(np.int64), expected, labels)[0][self.metric.name]
