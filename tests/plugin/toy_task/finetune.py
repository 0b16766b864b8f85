"""Liking at fine-tuning time."""

from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedModel

from toy_task.runtime import probability
from tuneport.stages.finetune.evaluate import Evaluation
from tuneport.stages.finetune.loading import load_pretrained, load_tokenizer
from tuneport.stages.finetune.tasks.base import FinetuneTask


class Task(FinetuneTask):
    """Rows of `text` and `liked`: one logit, trained on the binary cross-entropy."""

    labels = ("liked",)

    def load_processor(self, source: str) -> Any:
        return load_tokenizer(source, self.config)

    def load_model(self, source: str) -> PreTrainedModel:
        return load_pretrained(
            AutoModelForSequenceClassification,
            source,
            self.config,
            ignore_mismatched_sizes=True,
            id2label={0: "liked"},
            label2id={"liked": 0},
            problem_type="multi_label_classification",
        )

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        def encode_batch(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = processor(batch["text"], truncation=True, max_length=self.config.max_length)
            lengths = [len(ids) for ids in encoded["input_ids"]]
            return {**encoded, "labels": [[float(liked)] for liked in batch["liked"]], "length": lengths}

        return rows.map(encode_batch, batched=True, remove_columns=rows.column_names)

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        return DataCollatorWithPadding(processor)

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        probabilities, expected = probability(outputs), np.asarray(targets)[:, 0]
        return Evaluation(
            metrics={
                "accuracy": float(np.mean((probabilities > 0.5) == (expected > 0.5))),
                "brier": float(np.mean((probabilities - expected) ** 2)),
            }
        )
