"""Text classification at serving time: what comes in, and what a row of logits means."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from export.manifest import Manifest
from serve.batcher import Result
from serve.engines import Output
from serve.tasks.inputs import read_text
from serve.tokenizer import Row, Text


class Parameters(BaseModel):
    """What a request may ask for under `parameters`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    top_k: int | None = Field(default=None, ge=1)
    """Answer a list of the k likeliest labels, best first, instead of the best one."""


def read(value: Any, manifest: Manifest) -> Text:
    """Check one input of a request: a string, or an object with `text` (and `text_pair`)."""
    return read_text(value, accepts_pairs=manifest.processing.accepts_pairs)


def decode(row: Row, result: Result, manifest: Manifest, parameters: Parameters) -> Any:
    """Turn logits (labels,) into `{"label", "score"}`, or into a list of them with `top_k`."""
    scores = softmax(result["logits"])
    best = np.argsort(-scores, kind="stable")[: parameters.top_k or 1]
    cut = {"truncated": True} if row.truncated else {}
    answers = [{"label": manifest.labels[i], "score": round(float(scores[i]), 6), **cut} for i in best]
    return answers if parameters.top_k else answers[0]


def softmax(logits: Output) -> Output:
    """Probabilities over the last axis, float32 in and out."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def same_labels(logits: Output, reference: Output) -> Sequence[bool]:
    """Tell for each row of logits (rows, labels) whether both sides choose the same label."""
    return (logits.argmax(-1) == reference.argmax(-1)).tolist()
