"""Text classification: one label for each text or pair (`label`), or several (`labels`)."""

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset

from tuneport.data.columns import suggest_renaming
from tuneport.data.reader import Data
from tuneport.data.rows import Problems, numbered_rows, preview
from tuneport.errors import DataError
from tuneport.metrics.classification import score_classes, score_multilabel

from ..config import FinetuneConfig
from ..evaluate import Evaluation, Mistake, largest_losses
from ..losses import Loss, MultiLabelLoss, SingleLabelLoss
from .sequence import SequenceTask, check_same_columns, check_texts, format_input


class Task(SequenceTask):
    """Rows of `text` (and `text_pair`) and `label` or `labels`."""

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check every row; the labels are those of train, numbers in numeric order before names in alphabetic order."""
        super().__init__(data, config)
        columns = data.splits["train"].column_names
        if ("label" in columns) == ("labels" in columns):
            own = ", ".join(map(repr, data.columns))
            found = "both label and labels" if "label" in columns else f"neither label nor labels, only {own}"
            names = {name: config.columns.get(name, name) for name in ("label", "labels")}
            remedy = f"give one of them, or rename with {suggest_renaming('label', names, data.columns)}"
            raise DataError(f"{data.files['train']} has {found}", remedy)
        self.multi_label = "labels" in columns
        self.problem_type = "multi_label_classification" if self.multi_label else "single_label_classification"
        check_same_columns(data, ("labels" if self.multi_label else "label", "text_pair"))
        problems = Problems("correct these rows, or rename columns with --columns")
        counts = {}
        for split, rows in data.splits.items():
            check_texts(rows, data.files[split], problems)
            counts[split] = self._count_labels(rows, data.files[split], problems)
        problems.raise_if_any()
        self.label_counts = counts["train"]
        self.labels = tuple(sorted(self.label_counts, key=_label_order))
        if len(self.labels) < 2:
            found = f"one label, {self.labels[0]!r}" if self.labels else "no label in any row"
            raise DataError(f"{data.files['train']} has {found}", "give at least two classes")
        for split, rows in data.splits.items():
            if set(counts[split]) - set(self.labels):
                self._report_unknown(rows, data.files[split], problems)
        problems.raise_if_any()

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize; `labels` is an index into the label names, or a 0/1 float for each of them."""
        index = {label: i for i, label in enumerate(self.labels)}

        def targets(batch: dict[str, list[Any]]) -> list[Any]:
            if not self.multi_label:
                return [index[str(label)] for label in batch["label"]]
            names = [{str(label) for label in labels} for labels in batch["labels"]]
            return [[float(label in row) for label in self.labels] for row in names]

        return self.encode_texts(rows, processor, targets)

    def loss(self) -> Loss | None:
        """Return the loss for class weights and label smoothing; the model's own has neither."""
        is_weighted = self.config.class_weights != "none"
        smoothing = self.config.label_smoothing_factor
        if not is_weighted and not smoothing:
            return None
        counts = torch.tensor([self.label_counts[label] for label in self.labels], dtype=torch.float32)
        weights = counts.sum() / (len(counts) * counts) if is_weighted else torch.ones_like(counts)
        return MultiLabelLoss(weights, smoothing) if self.multi_label else SingleLabelLoss(weights, smoothing)

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score logits (rows, labels); a mistake's loss is the cross-entropy of its true label or labels."""
        logits = np.asarray(outputs, np.float64)
        if self.multi_label:
            predicted = (logits > 0).astype(int)
            metrics, classes = score_multilabel(predicted, targets.astype(int), self.labels)
            confusion: tuple[tuple[int, ...], ...] = ()
            losses = (np.logaddexp(0, logits) - targets * logits).sum(-1)
            positions = largest_losses(losses, (predicted != targets).any(-1))
        else:
            predicted = logits.argmax(-1)
            metrics, classes, confusion = score_classes(predicted, targets, self.labels)
            losses = np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(len(logits)), targets]
            positions = largest_losses(losses, predicted != targets)
        mistakes = tuple(
            Mistake(
                row=i + 1,
                input=format_input(rows[i]),
                expected=self._names(targets[i]),
                predicted=self._names(predicted[i]),
                loss=float(losses[i]),
            )
            for i in positions
        )
        return Evaluation(metrics=metrics, classes=classes, confusion=confusion, mistakes=mistakes)

    def _count_labels(self, rows: Dataset, file: str, problems: Problems) -> Counter[str]:
        """Count the labels of a split; values that are not labels are added to `problems`."""
        counts: Counter[str] = Counter()
        for number, row in numbered_rows(rows):
            labels = row["labels"] if self.multi_label else [row["label"]]
            if not isinstance(labels, list):
                problems.add(f"{file} row {number}", f"labels is {preview(labels)}, and a list is expected")
                continue
            for label in labels:
                if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
                    problem = f"label is {preview(label)}, and a string or whole number is expected"
                    problems.add(f"{file} row {number}", problem, _label_remedy(label))
                else:
                    counts[str(label)] += 1
        return counts

    def _report_unknown(self, rows: Dataset, file: str, problems: Problems) -> None:
        for number, row in numbered_rows(rows):
            for label in row["labels"] if self.multi_label else [row["label"]]:
                if str(label) not in self.label_counts:
                    problems.add(f"{file} row {number}", f"label {str(label)!r} is not among train's")

    def _names(self, target: npt.NDArray[Any]) -> str:
        """Name the labels of an index, or of 0/1 flags (labels,)."""
        if not self.multi_label:
            return self.labels[int(target)]
        return ", ".join(label for label, flag in zip(self.labels, target, strict=True) if flag) or "none"


def _label_remedy(label: Any) -> str | None:
    """Return the remedy for a value that is no label, where it is known."""
    if isinstance(label, bool):
        return 'write true and false as strings, such as "yes" and "no"'
    if isinstance(label, float) and not math.isnan(label):
        return "write strings or whole numbers, or predict numbers: --task regression --columns score=YOUR_COLUMN"
    if isinstance(label, list):
        return "lists of labels have a column of their own: --columns labels=YOUR_COLUMN"
    if label is None or not str(label).strip() or label != label:
        return "remove the rows that have no label, or label them"
    return "write the labels as strings"


def _label_order(label: str) -> tuple[bool, int, str]:
    is_number = label.removeprefix("-").isascii() and label.removeprefix("-").isdigit()
    return (not is_number, int(label) if is_number else 0, label)
