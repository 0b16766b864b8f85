"""Labelled data on disk."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .encoders import LABELS
from .reference import TorchReference
from .texts import SEED, random_texts

if TYPE_CHECKING:
    from tuneport.data.reader import Data

SPLIT_ROWS = {"train": 60, "validation": 240, "test": 60}
MARGIN = 3.0
"""Between the two highest logits of a text in the data: more than what int8 costs on any processor."""
QUICK: dict[str, Any] = {
    "max_length": 32, "max_steps": 2, "per_device_train_batch_size": 8, "eval_strategy": "no", "save_strategy": "no",
    "report_to": [], "bf16": False,
}  # fmt: skip
"""Settings of a fine-tuning run of a second."""


def write_rows(file: Path, rows: Iterable[Any]) -> Path:
    """Write a JSON Lines file; returns its path."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def read_rows(file: Path) -> list[Any]:
    """Read a JSON Lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_splits(folder: Path, **splits: Iterable[Any]) -> Path:
    """Write a JSON Lines file for each split; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


def read_splits(folder: Path, columns: Sequence[str]) -> "Data":
    """Read what `write_splits` wrote, as fine-tuning does."""
    from tuneport.data.reader import read_data  # imports datasets, which takes a second

    return read_data(str(folder), columns={}, required=columns, optional=(), seed=1)


def write_pairs(folder: Path, train: list[dict[str, str]], rest: list[dict[str, str]]) -> Path:
    """Write `train`, and `rest` as validation and as test; returns the folder."""
    return write_splits(folder, train=train, validation=rest, test=rest)


def write_data(folder: Path, checkpoint: Path, **rows_of_splits: int) -> None:
    """Write three splits of texts that the tiny classifier is sure about; every tenth row has another label."""
    reference = TorchReference(checkpoint)
    texts = random_texts(SEED)
    for split, count in {**SPLIT_ROWS, **rows_of_splits}.items():
        rows: list[dict[str, str]] = []
        while len(rows) < count:
            text = next(texts)
            (logits,) = reference.logits([text])
            best, second = np.sort(logits)[:-3:-1]
            if best - second > MARGIN:
                index = int(logits.argmax()) + (len(rows) % 10 == 9)
                rows.append({"text": text, "label": LABELS[index % len(LABELS)]})
        write_rows(folder / f"{split}.jsonl", rows)
