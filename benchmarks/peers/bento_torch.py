"""The service that BentoML's documentation leads a newcomer to: a transformers pipeline behind `@bentoml.api`.

It is started by the endpoint benchmark: `bentoml serve benchmarks.peers.bento_torch:TextClassification` with the
checkpoint's folder in `CHECKPOINT`. Nothing is added that would slow it down; `MAX_LENGTH` cuts texts where the
exported model does, which a newcomer may well leave out.
"""

import os

import bentoml
import torch
from transformers import pipeline


@bentoml.service(workers=1, traffic={"timeout": 60})
class TextClassification:
    """Answers `{"text": …}` with `{"label", "score"}`."""

    def __init__(self) -> None:
        """Load the model."""
        self.pipeline = pipeline(
            "text-classification",
            model=os.environ["CHECKPOINT"],
            torch_dtype=getattr(torch, os.environ.get("DTYPE", "float32")),
            device="cpu",
        )
        self.max_length = int(os.environ["MAX_LENGTH"])

    @bentoml.api
    def classify(self, text: str) -> dict[str, str | float]:
        """Classify one text."""
        answers: list[dict[str, str | float]] = self.pipeline(text, truncation=True, max_length=self.max_length)
        return answers[0]
