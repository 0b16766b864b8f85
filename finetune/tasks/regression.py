"""Regression: one number a text or pair, or several (`score` is a number or a list of them)."""

import math
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from scipy.stats import pearsonr, spearmanr
from transformers import PreTrainedModel

from finetune.config import FinetuneConfig
from finetune.data import Data, Problems, rows_of, short
from finetune.evaluate import WORST, Evaluation, Mistake
from finetune.tasks.sequence import SequenceTask, check_columns, check_texts, show


class Task(SequenceTask):
    """Checks, encodes and scores rows of `text` (and `text_pair`) and `score`."""

    required: ClassVar[tuple[str, ...]] = ("text", "score")
    optional: ClassVar[tuple[str, ...]] = ("text_pair",)
    best_metric: ClassVar[str] = "pearson"

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check that every score is a finite number, or a list of as many as the first row has."""
        super().__init__(config)
        check_columns(data, ("text_pair",))
        first = data.splits["train"][0]["score"]
        self.targets = len(first) if isinstance(first, list) else 1
        self.labels = tuple(f"score_{i}" for i in range(self.targets)) if self.targets > 1 else ("score",)
        problems = Problems("correct these rows, or rename columns with --columns score=YOUR_COLUMN")
        for split, rows in data.splits.items():
            check_texts(rows, data.files[split], problems)
            for number, row in rows_of(rows):
                if not self._is_right(row["score"]):
                    said = f"score is {short(row['score'])}, and {self._expected()} is expected"
                    problems.add(f"{data.files[split]} row {number}", said)
        problems.raise_if_any()

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the encoder under a new linear head, trained on the mean squared error."""
        names = dict(enumerate(self.labels))
        return self.load_head(
            source, id2label=names, label2id={name: i for i, name in names.items()}, problem_type="regression"
        )

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize; `labels` is a float, or a list of them."""
        several = self.targets > 1
        return self.encode_texts(
            rows, processor, lambda batch: [[float(n) for n in s] if several else float(s) for s in batch["score"]]
        )

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score predictions (rows, targets): errors over all targets, correlations as their mean over targets."""
        predicted = np.asarray(outputs, np.float64).reshape(-1, self.targets)
        expected = np.asarray(targets, np.float64).reshape(-1, self.targets)
        errors = np.abs(predicted - expected)
        columns = list(zip(predicted.T, expected.T, strict=True))
        metrics = {
            "mse": float((errors**2).mean()),
            "mae": float(errors.mean()),
            "pearson": float(np.mean([_correlation(pearsonr, *column) for column in columns])),
            "spearman": float(np.mean([_correlation(spearmanr, *column) for column in columns])),
        }
        total = errors.sum(-1)
        chosen = np.argsort(-total, kind="stable")[:WORST]
        mistakes = tuple(
            Mistake(
                row=int(i) + 1,
                input=show(rows[int(i)]),
                expected=_numbers(expected[i]),
                predicted=_numbers(predicted[i]),
                loss=float(total[i]),
            )
            for i in chosen
        )
        return Evaluation(metrics=metrics, mistakes=mistakes)

    def _is_right(self, score: Any) -> bool:
        values = score if isinstance(score, list) else [score]
        if isinstance(score, list) != (self.targets > 1) or len(values) != self.targets:
            return False
        return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)

    def _expected(self) -> str:
        return f"a list of {self.targets} numbers" if self.targets > 1 else "a number"


def _correlation(measure: Any, predicted: Any, expected: Any) -> float:
    """Correlate two columns; a constant one correlates with nothing, so 0."""
    if len(expected) < 2 or np.ptp(predicted) == 0 or np.ptp(expected) == 0:
        return 0.0
    return float(measure(predicted, expected).statistic)


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
