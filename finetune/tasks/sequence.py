"""What classification and regression of whole texts share: encoding, and the model with its pooling."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedModel

from export.files import DataError
from finetune.config import FinetuneConfig, refuse_unused
from finetune.data import Data, Problems, check_strings
from finetune.loading import check_input, is_pooled, load_pooled, load_pretrained, load_tokenizer


class SequenceTask:
    """A text or a pair of texts → one vector of outputs."""

    generates = False
    greater_is_better = True

    def __init__(self, config: FinetuneConfig) -> None:
        """Keep the settings."""
        refuse_unused(config, by=("task",))
        self.config = config

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer."""
        return load_tokenizer(source, self.config)

    def load_head(self, source: str, **options: Any) -> PreTrainedModel:
        """Load the encoder under a new head, pooled as the settings say; `options` are those of its config.

        What we have pooled before stays pooled as it was, unless the settings say otherwise, and keeps its head
        where that has the outputs of this task.
        """
        pooling = None if self.config.pooling == "default" else self.config.pooling
        if is_pooled(source, self.config) or pooling:
            model = load_pooled(source, self.config, pooling, **options)
        else:
            kind = AutoModelForSequenceClassification
            model = load_pretrained(kind, source, self.config, ignore_mismatched_sizes=True, **options)
        check_input(model, source, self.config)
        return model

    def encode_texts(self, rows: Dataset, processor: Any, targets: Any) -> Dataset:
        """Tokenize; `targets` maps a batch of rows to the values of `labels`."""

        def encode_batch(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = processor(
                batch["text"], batch.get("text_pair"), truncation=True, max_length=self.config.max_length
            )
            lengths = [len(ids) for ids in encoded["input_ids"]]
            return {**encoded, "labels": targets(batch), "length": lengths}

        return rows.map(encode_batch, batched=True, remove_columns=rows.column_names, desc="tokenize")

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Pad to the longest text of the batch."""
        return DataCollatorWithPadding(processor)

    def loss(self) -> Any:
        """Leave the loss to the model."""
        return None


def check_columns(data: Data, columns: Sequence[str]) -> None:
    """Check that each split has the same ones of the columns as train; else a DataError."""
    first = data.splits["train"].column_names
    for split, rows in data.splits.items():
        for column in columns:
            if (column in rows.column_names) != (column in first):
                has, lacks = ("train", split) if column in first else (split, "train")
                raise DataError(
                    f"{data.files[has]} has a column {column} and {data.files[lacks]} has none",
                    "give all splits the same columns, or rename with --columns",
                )


def check_texts(rows: Dataset, file: str, problems: Problems) -> None:
    """Check that every text, and pair where there is one, is a string with something in it."""
    check_strings(rows, file, problems, ("text", "text_pair"))


def show(row: dict[str, Any]) -> str:
    """Show a row's input in a report."""
    return f"{row['text']} ⟂ {row['text_pair']}" if "text_pair" in row else str(row["text"])
