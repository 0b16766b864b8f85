"""What the tasks share that map a text, or a pair of texts, to one vector of outputs."""

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedModel

from tuneport.data.reader import Data
from tuneport.data.rows import Problems, check_strings
from tuneport.errors import DataError

from ..loading import check_input_size, is_pooled, load_pooled, load_pretrained, load_tokenizer
from ..truncation import are_truncated
from .base import FinetuneTask

DATA_PREFIX = "data."


class SequenceTask(FinetuneTask):
    """Encodes texts and pairs, and loads the model with its pooling."""

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer."""
        return load_tokenizer(source, self.config)

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the encoder with a new head for the labels, pooled as the settings say.

        A base model with a pooling head of tuneport's keeps its pooling unless the settings name another, and keeps the
        head's weights if it has the outputs of this task.
        """
        options: dict[str, Any] = {
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: i for i, label in enumerate(self.labels)},
            "problem_type": self.problem_type,
        }
        pooling = None if self.config.pooling == "default" else self.config.pooling
        if pooling or is_pooled(source, self.config):
            model = load_pooled(source, self.config, pooling, **options)
        else:
            auto_class = AutoModelForSequenceClassification
            model = load_pretrained(auto_class, source, self.config, ignore_mismatched_sizes=True, **options)
        check_input_size(model, source, self.config)
        return model

    def encode_texts(
        self, rows: Dataset, processor: Any, targets: Callable[[dict[str, list[Any]]], list[Any]]
    ) -> Dataset:
        """Tokenize texts; `targets` maps the columns of a batch to the values of `labels`."""
        limit = self.config.max_length

        def encode_batch(batch: dict[str, list[Any]]) -> dict[str, Any]:
            batch = {name.removeprefix(DATA_PREFIX): values for name, values in batch.items()}
            texts = (batch["text"], batch["text_pair"]) if "text_pair" in batch else (batch["text"],)
            encoded = processor(*texts, truncation=True, max_length=limit)
            return {
                **encoded,
                "labels": targets(batch),
                "length": [len(ids) for ids in encoded["input_ids"]],
                "truncated": are_truncated(processor, encoded, limit, *texts),
            }

        # Encoded columns would take the type of a data column of their name: `labels` of the data may be strings.
        rows = rows.rename_columns({name: DATA_PREFIX + name for name in rows.column_names})
        return rows.map(encode_batch, batched=True, remove_columns=rows.column_names, desc="tokenize")

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Pad to the longest text of the batch."""
        return DataCollatorWithPadding(processor)


def check_same_columns(data: Data, columns: Sequence[str]) -> None:
    """Raise a DataError if a split has one of the columns and train lacks it, or the other way round."""
    in_train = data.splits["train"].column_names
    for split, rows in data.splits.items():
        for column in columns:
            if (column in rows.column_names) != (column in in_train):
                has, lacks = ("train", split) if column in in_train else (split, "train")
                raise DataError(
                    f"{data.files[has]} has a column {column} and {data.files[lacks]} has none",
                    "give all splits the same columns, or rename with --columns",
                )


def check_texts(rows: Dataset, file: str, problems: Problems) -> None:
    """Check that every text, and every second text of a pair, is a non-empty string."""
    check_strings(rows, file, problems, ("text", "text_pair"))


def format_input(row: dict[str, Any]) -> str:
    """Format a row's input for the report."""
    return f"{row['text']} ⟂ {row['text_pair']}" if "text_pair" in row else str(row["text"])
