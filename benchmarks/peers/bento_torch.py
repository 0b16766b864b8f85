"""The service that BentoML's documentation shows for this model: a transformers pipeline behind `@bentoml.api`.

    bentoml serve tuneport.stages.benchmarks.peers.bento_torch:TextClassification

Environment variables: `CHECKPOINT`, the checkpoint's folder; `DTYPE`, a torch dtype; `DEVICE`, `cpu` or `cuda`;
`MAX_LENGTH`, the tokens that texts are cut to, as in the exported model. Nothing is added that would slow it down.
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
            device=os.environ.get("DEVICE", "cpu"),
        )
        self.max_length = int(os.environ["MAX_LENGTH"])

    @bentoml.api
    def classify(self, text: str) -> dict[str, str | float]:
        """Classify one text."""
        predictions: list[dict[str, str | float]] = self.pipeline(text, truncation=True, max_length=self.max_length)
        return predictions[0]
