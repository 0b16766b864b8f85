"""Untrained encoders with the head of a task, exported without a run."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

from .data import write_splits
from .encoders import spread_logits, tiny_encoder
from .exports import export_variants, quick_exports
from .texts import WORDS

MAX_LENGTH = 32
BYTE_LEVEL = ("roberta", "modernbert")
NO_TYPES = ("distilbert", "modernbert")
generator = random.Random(5)
"""Seeded anew before each test of the export."""


def text(words: int = 12) -> str:
    return " ".join(generator.choices(WORDS, k=words))


def question_row() -> dict[str, Any]:
    context = text(60)
    answer = context.split()[7]
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"question": text(4), "context": context, "answers": answers}


def tagged_row(words: int = 12) -> dict[str, Any]:
    tokens = text(words).split()
    tags = generator.choices(["O", "B-X", "I-X", "B-Y"], k=len(tokens))
    for i, before in enumerate(["O", *tags[:-1]]):
        if tags[i] == "I-X" and (i == 0 or before[1:] != "-X"):
            tags[i] = "B-X"
    return {"tokens": tokens, "tags": tags}


ROWS: dict[str, tuple[str, Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "text-classification": ("SequenceClassification", lambda: {"text": text(), "label": generator.choice("abc")},
                            {"id2label": {0: "a", 1: "b", 2: "c"}}),
    "multi-label": ("SequenceClassification", lambda: {"text": text(), "labels": generator.sample("abc", 2)},
                    {"id2label": {0: "a", 1: "b", 2: "c"}, "problem_type": "multi_label_classification"}),
    "regression": ("SequenceClassification", lambda: {"text": text(), "score": [generator.random() for _ in "ab"]},
                   {"num_labels": 2, "problem_type": "regression"}),
    "token-classification": ("TokenClassification", tagged_row,
                             {"id2label": {0: "O", 1: "B-X", 2: "I-X", 3: "B-Y"}}),
    "question-answering": ("QuestionAnswering", question_row, {}),
}  # fmt: skip


def export_untrained(folder: Path, kind: str, family: str, **settings: Any) -> tuple[Path, Path]:
    """Save a random model with the task's head and export it without a run; returns checkpoint and artifact."""
    head, row, options = ROWS[kind]
    tiny_encoder(folder / "checkpoint", family)
    torch.manual_seed(2)
    auto = getattr(transformers, f"AutoModelFor{head}")
    model = auto.from_pretrained(folder / "checkpoint", **options)
    for parameter in model.parameters():  # the usual 0.02 gives every text nearly the same prediction
        if parameter.dim() > 1:
            parameter.data *= 5
    if head != "QuestionAnswering":
        spread_logits(model, AutoTokenizer.from_pretrained(folder / "checkpoint"), deviation=1.0)
    model.save_pretrained(folder / "checkpoint")
    data = write_splits(folder / "data", train=[row() for _ in range(20)], validation=[row() for _ in range(20)])
    settings = {"max_length": MAX_LENGTH, **settings}
    with quick_exports():
        export_variants(folder / "checkpoint", data, folder / "artifact", "fp32", **settings)
    return folder / "checkpoint", folder / "artifact"


def logits_of(checkpoint: Path, head: str, value: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = getattr(transformers, f"AutoModelFor{head}").from_pretrained(checkpoint).eval()
    feeds = tokenizer(value, return_tensors="pt", truncation=True, max_length=MAX_LENGTH)
    if model.config.model_type in NO_TYPES:
        feeds.pop("token_type_ids", None)
    with torch.inference_mode():
        return model(**feeds).logits[0]
