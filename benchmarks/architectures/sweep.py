"""Export one architecture and compare what its artifact answers with a freshly loaded torch model."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tuneport.errors import TuneportError
from tuneport.runtime.predictor import Predictor
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.inputs import input_names
from tuneport.stages.export.pipeline import export

from .tiny_models import LABELS, MAX_LENGTH, WORDS, build_classifier, own_tokenizer

LENGTHS = (3, 9, 24, 57, 100, MAX_LENGTH)
"""Tokens of the inputs that are compared, special tokens included."""
SAME = 2e-3
"""Largest difference that counts as the same answer."""


@dataclass(frozen=True)
class Outcome:
    """What became of one architecture."""

    model_type: str
    has_fast_tokenizer: bool
    inputs: tuple[str, ...] = ()
    """Inputs of the graph."""
    single_rows: bool = False
    """Whether inputs run one at a time."""
    max_difference: float | None = None
    """Of any logit, or as a share of one above 1, at any length from torch, loaded anew; None without an artifact."""
    refusal: str = ""
    """Why there is no artifact, in one line."""

    @property
    def is_right(self) -> bool:
        """Whether the artifact answers as torch does."""
        return self.max_difference is not None and self.max_difference <= SAME


def try_architecture(model_type: str) -> Outcome:
    """Build, export and compare an architecture; an exception that is no TuneportError is a fault of this project."""
    has_tokenizer = own_tokenizer(model_type) is not None
    with tempfile.TemporaryDirectory(prefix="tuneport-architectures-") as folder:
        checkpoint, artifact = Path(folder) / "checkpoint", Path(folder) / "artifact"
        try:
            build_classifier(model_type, checkpoint)
        except Exception as error:  # of transformers, which may need packages or a GPU for it
            reason = " ".join(str(error).split())[:120]
            return Outcome(model_type, has_tokenizer, refusal=f"transformers builds no tiny model here: {reason}")
        try:
            export(ExportConfig(checkpoint=checkpoint, variants=("fp32",)), artifact)
        except TuneportError as error:
            return Outcome(model_type, has_tokenizer, refusal=error.problem.replace(str(checkpoint), "the checkpoint"))
        predictor = Predictor(artifact)
        return Outcome(
            model_type,
            has_tokenizer,
            inputs=tuple(each.name for each in predictor.manifest.inputs),
            single_rows=predictor.variant.execution.single_row_batches,
            max_difference=_largest_difference(checkpoint, predictor),
        )


def texts() -> list[str]:
    """Return a text of each of `LENGTHS`; every tokenizer here adds two tokens."""
    generator = np.random.default_rng(5)
    return [" ".join(generator.choice(WORDS, length - 2)) for length in LENGTHS]


def _largest_difference(checkpoint: Path, predictor: Predictor) -> float:
    """Compare what the artifact answers to all texts in one request with torch; infinite if a label differs."""
    expected = torch_logits(checkpoint, texts())
    labels = [answer["label"] for answer in predictor.predict(texts())]
    rows = [row for rows in predictor.task.encode(predictor.parse_inputs(texts())) for row in rows]
    served = np.stack([outputs["logits"] for outputs in predictor.runner.run(rows)])
    if labels != [LABELS[index] for index in expected.argmax(-1)]:
        return float("inf")
    return float((np.abs(served - expected) / np.maximum(1, np.abs(expected))).max())


def torch_logits(checkpoint: Path, inputs: Sequence[str]) -> Any:
    """Return torch's logits, float32 (inputs, labels), of one input at a time, each of a model that was just loaded."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = []
    for text in inputs:
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
        feeds = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**{name: feeds[name] for name in input_names(model, tokenizer)}).logits
        rows.append(logits[0].float().numpy())
    return np.stack(rows)
