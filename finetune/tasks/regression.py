"""Regression: one number for each text or pair, or several (`score` is a number or a list of numbers)."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from tuneport.data.reader import Data
from tuneport.data.rows import Problems, numbered_rows, preview
from tuneport.metrics.regression import regression_metrics

from ..config import FinetuneConfig
from ..evaluate import MAX_MISTAKES, Evaluation, Mistake
from .sequence import SequenceTask, check_same_columns, check_texts, format_input


class Task(SequenceTask):
    """Rows of `text` (and `text_pair`) and `score`."""

    problem_type = "regression"

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check that every score is a finite number, or a list of as many as the first row has."""
        super().__init__(data, config)
        check_same_columns(data, ("text_pair",))
        first_score = data.splits["train"][0]["score"]
        self.num_targets = len(first_score) if isinstance(first_score, list) else 1
        self.labels = tuple(f"score_{i}" for i in range(self.num_targets)) if self.num_targets > 1 else ("score",)
        problems = Problems("correct these rows, or rename columns with --columns score=YOUR_COLUMN")
        for split, rows in data.splits.items():
            check_texts(rows, data.files[split], problems)
            for number, row in numbered_rows(rows):
                if not self._is_valid(row["score"]):
                    problem = f"score is {preview(row['score'])}, and {self._expected_score()} is expected"
                    problems.add(f"{data.files[split]} row {number}", problem, _score_remedy(row["score"]))
        problems.raise_if_any()

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize; `labels` is a float, or a list of floats."""
        has_lists = self.num_targets > 1
        return self.encode_texts(
            rows, processor, lambda batch: [[float(n) for n in s] if has_lists else float(s) for s in batch["score"]]
        )

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score predictions (rows, targets); a mistake's loss is the sum of the absolute errors of its targets."""
        predicted = np.asarray(outputs, np.float64).reshape(-1, self.num_targets)
        expected = np.asarray(targets, np.float64).reshape(-1, self.num_targets)
        losses = np.abs(predicted - expected).sum(-1)
        mistakes = tuple(
            Mistake(
                row=int(i) + 1,
                input=format_input(rows[int(i)]),
                expected=_format_numbers(expected[i]),
                predicted=_format_numbers(predicted[i]),
                loss=float(losses[i]),
            )
            for i in np.argsort(-losses, kind="stable")[:MAX_MISTAKES]
        )
        return Evaluation(metrics=regression_metrics(predicted, expected), mistakes=mistakes)

    def _is_valid(self, score: Any) -> bool:
        values = score if isinstance(score, list) else [score]
        if isinstance(score, list) != (self.num_targets > 1) or len(values) != self.num_targets:
            return False
        return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)

    def _expected_score(self) -> str:
        return f"a list of {self.num_targets} numbers" if self.num_targets > 1 else "a number"


def _score_remedy(score: Any) -> str | None:
    """Return the remedy for a value that is no score, where it is known."""
    if isinstance(score, bool):
        return "write 0 and 1, or predict classes: --task text-classification --columns label=YOUR_COLUMN"
    if score is None or (isinstance(score, float) and not math.isfinite(score)):
        return "remove the rows that have no score, or score them"
    return None


def _format_numbers(values: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
