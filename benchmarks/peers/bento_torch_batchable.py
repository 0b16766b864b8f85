"""The service that BentoML's documentation shows for adaptive batching, over torch: `@bentoml.api(batchable=True)`.

    bentoml serve tuneport.stages.benchmarks.peers.bento_torch_batchable:TextClassification

Environment variables as for `bento_torch.py`. Limits of the batch are BentoML's defaults.
"""

import os
from typing import Any

import bentoml
import torch
from transformers import pipeline


@bentoml.service(workers=1, traffic={"timeout": 60})
class TextClassification:
    """Answers `{"texts": […]}` with a list of `{"label", "score"}`; texts of several requests share a batch."""

    def __init__(self) -> None:
        """Load the model."""
        self.pipeline = pipeline(
            "text-classification",
            model=os.environ["CHECKPOINT"],
            torch_dtype=getattr(torch, os.environ.get("DTYPE", "float32")),
            device=os.environ.get("DEVICE", "cpu"),
        )
        self.max_length = int(os.environ["MAX_LENGTH"])

    @bentoml.api(batchable=True)
    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """Classify a batch."""
        found: list[dict[str, Any]] = self.pipeline(
            texts, batch_size=len(texts), truncation=True, max_length=self.max_length
        )
        return found
