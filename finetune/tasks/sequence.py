"""What classification and regression of whole texts share: encoding, and the model with its pooling."""

from typing import Any

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedModel

from finetune.config import FinetuneConfig
from finetune.data import Problems, check_strings
from finetune.heads import PooledClassifier
from finetune.loading import load_pretrained, load_tokenizer, with_dropout


class SequenceTask:
    """A text or a pair of texts → one vector of outputs."""

    generates = False
    greater_is_better = True

    def __init__(self, config: FinetuneConfig) -> None:
        """Keep the settings."""
        self.config = config

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer."""
        return load_tokenizer(source, self.config)

    def load_head(self, source: str, **options: Any) -> PreTrainedModel:
        """Load the encoder under a new head, pooled as the settings say; `options` are those of its config."""
        if self.config.pooling == "default":
            kind = AutoModelForSequenceClassification
            return load_pretrained(kind, source, self.config, ignore_mismatched_sizes=True, **options)
        model = PooledClassifier.from_encoder(
            source, self.config.pooling, trust_remote_code=self.config.trust_remote_code, **options
        )
        return with_dropout(model, self.config)

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


def check_texts(rows: Dataset, file: str, problems: Problems) -> None:
    """Check that every text, and pair where there is one, is a string with something in it."""
    check_strings(rows, file, problems, ("text", "text_pair"))


def show(row: dict[str, Any]) -> str:
    """Show a row's input in a report."""
    return f"{row['text']} ⟂ {row['text_pair']}" if "text_pair" in row else str(row["text"])
