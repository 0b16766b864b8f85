"""What a model that is trained from nothing is made of, and how long its training takes."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from tuneport.data.reader import read_data
from tuneport.data.rows import numbered_rows

TRIAL_STEPS = 5


@dataclass(frozen=True)
class Recipe:
    """A task, and the model for it."""

    task: str
    columns: tuple[str, ...]
    """Of the data: the texts that the tokenizer is trained on, and an input of the model in this order."""
    batch_rows: int
    """Of a step of the training."""
    settings: tuple[str, ...]
    """Of the fine-tuning, key=value, without the rows of a batch."""
    save_base: Callable[[Path, Iterator[str]], None]
    """Save a seeded random model, and a tokenizer that is trained on texts, into a folder."""
    load: Callable[[Path], Any]
    """Load that model in torch."""
    loss: Callable[[Any, Any, Sequence[str]], Any]
    """Return the loss of a model, a tensor, on the texts of a batch; takes model, tokenizer and texts."""

    def texts(self, data: str) -> Iterator[str]:
        """Yield the texts of the train split, row by row; the tokenizer must not see validation and test."""
        splits = read_data(data, columns={}, required=self.columns, optional=(), seed=0).splits
        for _, row in numbered_rows(splits["train"]):
            for column in self.columns:
                yield row[column]


def steps_within(seconds: float, recipe: Recipe, base: Path, texts: Iterator[str]) -> int:
    """Return how many steps of training take about so many seconds, by the time of a few of them."""
    model = recipe.load(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    took = []
    for _ in range(1 + TRIAL_STEPS):
        batch = list(itertools.islice(texts, recipe.batch_rows * len(recipe.columns)))
        began = time.perf_counter()
        recipe.loss(model, tokenizer, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        took.append(time.perf_counter() - began)
    return max(1, round(seconds / statistics.median(took[1:])))
