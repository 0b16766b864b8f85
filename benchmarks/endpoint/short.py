"""The latency that the server adds: one short text over HTTP, against the engine alone on the same row."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.tasks.base import RuntimeTask

SHORT_TOKENS = 16
MAX_TEXTS_TRIED = 200
WARM_UP_RUNS = 5


def select_short_text(task: RuntimeTask, inputs: Sequence[Any]) -> tuple[str, EncodedInput] | None:
    """Cut a real text to `SHORT_TOKENS` tokens, special tokens included, or as close as whole words allow.

    Returns the text and its row; None if the inputs are not plain texts.
    """
    best: tuple[str, EncodedInput] | None = None
    for text in inputs[:MAX_TEXTS_TRIED]:
        if not isinstance(text, str):
            return None
        words = text.split()
        for num_words in range(1, min(len(words), SHORT_TOKENS) + 1):
            cut = " ".join(words[:num_words])
            row = task.encode([task.parse_input(cut)])[0][0]
            if best is None or _distance(row) < _distance(best[1]):
                best = cut, row
        if best and _distance(best[1]) == 0:
            break
    return best


def time_runner(runner: ModelRunner, row: EncodedInput, seconds: float) -> tuple[float, float]:
    """Run one row repeatedly for `seconds`; returns the median latency and the mean CPU time of a run, both in ms."""
    for _ in range(WARM_UP_RUNS):
        runner.run_batch([row])
    latencies_ms: list[float] = []
    ends_at, cpu_before = time.perf_counter() + seconds, time.process_time()
    while (started := time.perf_counter()) < ends_at:
        runner.run_batch([row])
        latencies_ms.append((time.perf_counter() - started) * 1000)
    cpu_ms = 1000 * (time.process_time() - cpu_before) / len(latencies_ms)
    return round(float(np.median(latencies_ms)), 3), round(cpu_ms, 3)


def _distance(row: EncodedInput) -> int:
    return abs(len(row) - SHORT_TOKENS)
