"""Text classification: one label a text."""

from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from export.files import DataError
from finetune.config import FinetuneConfig
from finetune.data import Data, Problems, rows_of


class Task:
    """Checks, encodes and scores rows of `text` and `label`."""

    required = ("text", "label")
    optional = ("text_pair",)
    best_metric = "accuracy"

    def __init__(self, data: Data) -> None:
        """Check every row; the labels are those of train, numbers in order of size, names of the alphabet."""
        problems = Problems("correct these rows, or rename columns with --columns")
        seen = {split: _check(rows, data.files[split], problems) for split, rows in data.splits.items()}
        problems.raise_if_any()
        self.labels = tuple(sorted(seen["train"], key=_label_order))
        if len(self.labels) < 2:
            raise DataError(f"{data.files['train']} has one label, {self.labels[0]!r}", "give at least two classes")
        for split, labels in seen.items():
            for label, row in labels.items():
                if label not in seen["train"]:
                    problems.add(f"{data.files[split]} row {row}", f"label {label!r} is not among train's")
        problems.raise_if_any()

    def load_model(self, config: FinetuneConfig, source: str) -> PreTrainedModel:
        """Load the encoder under a new classification head."""
        return AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=len(self.labels),
            id2label=dict(enumerate(self.labels)),
            label2id={label: i for i, label in enumerate(self.labels)},
            problem_type="single_label_classification",
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
        )

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """Tokenize; adds `labels` (index into the label names) and `length` in tokens."""
        index = {label: i for i, label in enumerate(self.labels)}

        def encode_batch(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=max_length)
            labels = [index[str(label)] for label in batch["label"]]
            return {**encoded, "labels": labels, "length": [len(ids) for ids in encoded["input_ids"]]}

        return rows.map(encode_batch, batched=True, remove_columns=rows.column_names, desc="tokenize")

    def score(self, outputs: npt.NDArray[np.float32], targets: npt.NDArray[Any]) -> dict[str, float]:
        """Accuracy, F1 (macro and weighted) and Matthews' correlation, from logits (rows, labels)."""
        predicted = outputs.argmax(-1)
        return {
            "accuracy": float(accuracy_score(targets, predicted)),
            "f1_macro": float(f1_score(targets, predicted, average="macro", zero_division=0)),
            "f1_weighted": float(f1_score(targets, predicted, average="weighted", zero_division=0)),
            "matthews": float(matthews_corrcoef(targets, predicted)),
        }


def _check(rows: Dataset, file: str, problems: Problems) -> dict[str, int]:
    """Check a split's rows; returns its labels, each with the first row that has it."""
    labels: dict[str, int] = {}
    for number, row in rows_of(rows):
        place = f"{file} row {number}"
        for column in ("text", "text_pair"):
            if column in row and (not isinstance(row[column], str) or not row[column].strip()):
                problems.add(place, f"{column} is {_short(row[column])}")
        label = row["label"]
        if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
            problems.add(place, f"label is {_short(label)}, and a string or whole number is expected")
        else:
            labels.setdefault(str(label), number)
    return labels


def _short(value: Any) -> str:
    return "an empty string" if isinstance(value, str) and not value.strip() else repr(value)[:60]


def _label_order(label: str) -> tuple[bool, int, str]:
    is_number = label.lstrip("-").isdigit()
    return (not is_number, int(label) if is_number else 0, label)
