"""The stopwatch: contenders timed side by side on the same rows, so that a noisy machine is unfair to none."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.manifest import Timing
from serve.batcher import plan
from serve.tokenizer import Row


@dataclass(frozen=True)
class Contender:
    """Something that answers rows."""

    run: Callable[[Sequence[Row]], Any]
    """Runs one padded batch of rows."""
    streams: int = 1
    """How many batches it runs at a time."""


def time_side_by_side(
    contenders: Mapping[str, Contender],
    rows: Sequence[Row],
    *,
    baseline: str,
    max_batch_tokens: int = 1024,
    rounds: int = 3,
    singles: int = 100,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Timing]:
    """Time every contender on rows, one at a time and in the micro-batches that serving makes.

    Contenders take turns, round by round; throughput is the median of the rounds, latency the percentiles of
    all single runs. `speed_up` is against the throughput of `baseline`.
    """
    batches = [[rows[i] for i in batch] for batch in plan([len(row) for row in rows], max_batch_tokens)]
    alone = _spread(rows, singles)
    latencies: dict[str, list[float]] = {name: [] for name in contenders}
    throughputs: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, contender in contenders.items():
            progress(f"round {turn + 1} of {rounds}: {name}")
            run = contender.run
            with ThreadPoolExecutor(contender.streams) as pool:
                # Warm caches, and every stream's thread, after the other contender.
                list(pool.map(run, [batches[0]] * contender.streams))
                started = time.perf_counter()
                list(pool.map(run, batches))
                throughputs[name].append(len(rows) / (time.perf_counter() - started))
            run(alone[:1])
            for row in alone[turn::rounds]:
                started = time.perf_counter()
                run([row])
                latencies[name].append((time.perf_counter() - started) * 1000)
    base = float(np.median(throughputs[baseline]))
    return {name: _timing(len(rows), latencies[name], throughputs[name], base) for name in contenders}


def _timing(texts: int, latencies_ms: list[float], texts_per_s: list[float], base: float) -> Timing:
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(latencies_ms, (50, 95, 99)))
    speed = float(np.median(texts_per_s))
    return Timing(
        texts=texts,
        latency_ms_p50=p50,
        latency_ms_p95=p95,
        latency_ms_p99=p99,
        texts_per_s=round(speed, 1),
        speed_up=round(speed / base, 3),
    )


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Choose `count` rows evenly, in order of arrival, so that lengths come as they come."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)]
