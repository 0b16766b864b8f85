"""Text classification: one label a text or pair (`label`), or any number of them (`labels`)."""

from collections import Counter
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from export.files import DataError
from finetune.config import FinetuneConfig
from finetune.data import Data, Problems, rows_of, short
from finetune.evaluate import Evaluation, Mistake, score_classes, score_multilabel, worst
from finetune.tasks import Loss
from finetune.tasks.sequence import SequenceTask, check_columns, check_texts, show


class Task(SequenceTask):
    """Checks, encodes and scores rows of `text` and `label` or `labels`."""

    required: ClassVar[tuple[str, ...]] = ("text",)
    optional: ClassVar[tuple[str, ...]] = ("text_pair", "label", "labels")
    best_metric: ClassVar[str] = "f1_macro"

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check every row; the labels are those of train, numbers in order of size, names of the alphabet."""
        super().__init__(config)
        columns = data.splits["train"].column_names
        if ("label" in columns) == ("labels" in columns):
            has = "both label and labels" if "label" in columns else f"neither label nor labels, only {columns}"
            raise DataError(
                f"{data.files['train']} has {has}", "give one of them, or rename with --columns label=YOURS"
            )
        self.multi_label = "labels" in columns
        check_columns(data, ("labels" if self.multi_label else "label", "text_pair"))
        problems = Problems("correct these rows, or rename columns with --columns")
        seen = {}
        for split, rows in data.splits.items():
            check_texts(rows, data.files[split], problems)
            seen[split] = self._check_labels(rows, data.files[split], problems)
        problems.raise_if_any()
        self.counts = seen["train"]
        self.labels = tuple(sorted(self.counts, key=_label_order))
        if len(self.labels) < 2:
            has = f"one label, {self.labels[0]!r}" if self.labels else "no label in any row"
            raise DataError(f"{data.files['train']} has {has}", "give at least two classes")
        for split, rows in data.splits.items():
            if set(seen[split]) - set(self.labels):
                self._report_unknown(rows, data.files[split], problems)
        problems.raise_if_any()

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the encoder under a new classification head."""
        return self.load_head(
            source,
            id2label=dict(enumerate(self.labels)),
            label2id={label: i for i, label in enumerate(self.labels)},
            problem_type="multi_label_classification" if self.multi_label else "single_label_classification",
        )

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize; `labels` is an index into the label names, or a 0/1 float for each of them."""
        index = {label: i for i, label in enumerate(self.labels)}

        def targets(batch: dict[str, list[Any]]) -> list[Any]:
            if not self.multi_label:
                return [index[str(label)] for label in batch["label"]]
            chosen = [{str(label) for label in labels} for labels in batch["labels"]]
            return [[float(label in row) for label in self.labels] for row in chosen]

        return self.encode_texts(rows, processor, targets)

    def loss(self) -> Loss | None:
        """Return the weighted loss where the settings ask for class weights, or to smooth several labels.

        transformers smooths single labels alone.
        """
        is_weighted = self.config.class_weights != "none"
        if not is_weighted and not (self.multi_label and self.config.label_smoothing_factor):
            return None
        counts = torch.tensor([self.counts[label] for label in self.labels], dtype=torch.float32)
        weights = counts.sum() / (len(counts) * counts) if is_weighted else torch.ones_like(counts)
        if self.multi_label:
            return _WeightedLoss(weights, self.config.label_smoothing_factor, multi_label=True)
        return _WeightedLoss(weights, self.config.label_smoothing_factor, multi_label=False)

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score logits (rows, labels); a mistake's loss is the cross-entropy of its true label or labels."""
        logits = np.asarray(outputs, np.float64)
        if self.multi_label:
            predicted = (logits > 0).astype(int)
            metrics, classes = score_multilabel(predicted, targets.astype(int), self.labels)
            losses = (np.logaddexp(0, logits) - targets * logits).sum(-1)
            chosen = worst(losses, (predicted != targets).any(-1))
            names = [self._names(row) for row in targets], [self._names(row) for row in predicted]
            matrix: tuple[tuple[int, ...], ...] = ()
        else:
            predicted = logits.argmax(-1)
            metrics, classes, matrix = score_classes(predicted, targets, self.labels)
            losses = np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(len(logits)), targets]
            chosen = worst(losses, predicted != targets)
            names = [self.labels[i] for i in targets], [self.labels[i] for i in predicted]
        mistakes = tuple(
            Mistake(row=i + 1, input=show(rows[i]), expected=names[0][i], predicted=names[1][i], loss=float(losses[i]))
            for i in chosen
        )
        return Evaluation(metrics=metrics, classes=classes, confusion=matrix, mistakes=mistakes)

    def _check_labels(self, rows: Dataset, file: str, problems: Problems) -> Counter[str]:
        """Check a split's labels; counts them."""
        found: Counter[str] = Counter()
        for number, row in rows_of(rows):
            labels = row["labels"] if self.multi_label else [row["label"]]
            if not isinstance(labels, list):
                problems.add(f"{file} row {number}", f"labels is {short(labels)}, and a list is expected")
                continue
            for label in labels:
                if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
                    said = f"label is {short(label)}, and a string or whole number is expected"
                    problems.add(f"{file} row {number}", said)
                else:
                    found[str(label)] += 1
        return found

    def _report_unknown(self, rows: Dataset, file: str, problems: Problems) -> None:
        for number, row in rows_of(rows):
            for label in row["labels"] if self.multi_label else [row["label"]]:
                if str(label) not in self.counts:
                    problems.add(f"{file} row {number}", f"label {str(label)!r} is not among train's")

    def _names(self, flags: npt.NDArray[Any]) -> str:
        return ", ".join(label for label, flag in zip(self.labels, flags, strict=True) if flag) or "none"


class _WeightedLoss:
    """Cross-entropy in which classes weigh differently, with label smoothing."""

    def __init__(self, weights: torch.Tensor, smoothing: float, *, multi_label: bool) -> None:
        self.weights = weights
        self.smoothing = smoothing
        self.multi_label = multi_label

    def __call__(
        self, outputs: Any, targets: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean over the rows, or their sum over `num_items_in_batch`, the rows of an accumulated batch."""
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        weights = self.weights.to(logits)
        if self.multi_label:
            smooth = targets * (1 - self.smoothing) + 0.5 * self.smoothing
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, smooth.to(logits), pos_weight=weights)
        each = torch.nn.functional.cross_entropy(
            logits, targets, weight=weights, label_smoothing=self.smoothing, reduction="none"
        )
        return each.mean() if num_items_in_batch is None else each.sum() / num_items_in_batch


def _label_order(label: str) -> tuple[bool, int, str]:
    is_number = label.removeprefix("-").isascii() and label.removeprefix("-").isdigit()
    return (not is_number, int(label) if is_number else 0, label)
