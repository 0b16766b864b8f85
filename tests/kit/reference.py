"""torch and transformers alone, without this project's code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from .encoders import LABELS, MAX_LENGTH


class TorchReference:
    """The tiny classifier in transformers, one text at a time: what every answer must equal."""

    def __init__(self, checkpoint: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()

    def logits(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return logits, float32 (texts, labels)."""
        rows = []
        for text in texts:
            feeds = self.tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt", verbose=False)
            with torch.inference_mode():
                rows.append(self.model(**feeds).logits[0].numpy())
        return np.stack(rows)

    def labels(self, texts: Sequence[str]) -> list[str]:
        """Return the label of each text."""
        return [LABELS[i] for i in self.logits(texts).argmax(-1)]

    def probabilities(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return probabilities, float32 (texts, labels)."""
        result: np.ndarray[Any, np.dtype[np.float32]] = torch.softmax(torch.tensor(self.logits(texts)), -1).numpy()
        return result
