"""The cost of the service itself: one short text through the engine, without a service around it."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from serve.model import Model
from serve.tasks import Task
from serve.tokenizer import Row

TOKENS = 16
SEEN = 200
"""Texts that are tried."""


def choose_short(task: Task, inputs: Sequence[Any]) -> tuple[str, Row] | None:
    """Cut a real text to `TOKENS` tokens, special ones included, or as near as words allow; None without texts."""
    best: tuple[str, Row] | None = None
    for text in inputs[:SEEN]:
        if not isinstance(text, str):
            return None
        words = text.split()
        for count in range(1, min(len(words), TOKENS) + 1):
            cut = " ".join(words[:count])
            row = task.encode([task.read(cut)])[0][0]
            if best is None or abs(len(row) - TOKENS) < abs(len(best[1]) - TOKENS):
                best = cut, row
        if best and len(best[1]) == TOKENS:
            break
    return best


def time_engine(model: Model, row: Row, seconds: float) -> tuple[float, float]:
    """Run a row again and again; returns median milliseconds and processor milliseconds a run."""
    for _ in range(5):
        model.run_batch([row])
    took: list[float] = []
    ends, cpu_before = time.perf_counter() + seconds, time.process_time()
    while (started := time.perf_counter()) < ends:
        model.run_batch([row])
        took.append((time.perf_counter() - started) * 1000)
    cpu_ms = 1000 * (time.process_time() - cpu_before) / len(took)
    return round(float(np.median(took)), 3), round(cpu_ms, 3)
