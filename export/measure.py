"""The stopwatch: contenders timed side by side on the same rows, so that a noisy machine is unfair to none."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.manifest import Device, Timing
from serve.model import Model
from serve.plan import Budget, plan
from serve.tokenizer import Row

BATCH_TOKENS: dict[Device, tuple[int, ...]] = {
    "cpu": (128, 512),
    "cuda": (1024, 8192),
    "tensorrt": (1024, 8192),
}
"""Sizes of batches that are tried: a processor core is busy with a few short texts, a GPU is not."""
AS_FAST = 0.97
"""Of the highest throughput: a smaller batch that reaches it is better, since each text waits for less."""
TRIED_ROWS, TRIES = 64, 2


@dataclass(frozen=True)
class Contender:
    """Something that answers rows."""

    run: Callable[[Sequence[Row]], Any]
    """Runs one padded batch of rows."""
    streams: int = 1
    """How many batches it runs at a time."""
    budgets: tuple[Budget, ...] = (Budget(),)
    """Of the batches to choose from, smaller ones first."""

    @classmethod
    def of(cls, model: Model, device: Device) -> "Contender":
        """Return a variant as it serves; one that runs inputs alone, or writes, has no choice of batches."""
        has_choice = model.splits and not model.alone
        tried = budgets(model.budget, device) if has_choice else (model.budget,)
        return cls(model.run_batch, model.streams, tried)


def budgets(budget: Budget, device: Device) -> tuple[Budget, ...]:
    """Return the budgets to try on a device, with the shapes of one."""
    return tuple(replace(budget, tokens=tokens) for tokens in BATCH_TOKENS[device])


def time_side_by_side(
    contenders: Mapping[str, Contender],
    rows: Sequence[Row],
    *,
    baseline: str,
    rounds: int = 3,
    singles: int = 100,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Timing]:
    """Time every contender on rows, one at a time and in the micro-batches that suit it best.

    Contenders take turns, round by round; throughput is the median of the rounds, latency the percentiles of
    all single runs. `speed_up` is against the throughput of `baseline`.
    """
    alone = _spread(rows, singles)
    latencies: dict[str, list[float]] = {name: [] for name in contenders}
    throughputs: dict[str, list[float]] = {name: [] for name in contenders}
    best = {}
    for name, contender in contenders.items():
        progress(f"looking for the best size of batches: {name}")
        best[name] = _best_budget(contender, _spread(rows, TRIED_ROWS))
    for turn in range(rounds):
        for name, contender in contenders.items():
            progress(f"round {turn + 1} of {rounds}: {name}")
            throughputs[name].append(_rows_per_s(contender, rows, best[name]))
            contender.run(alone[:1])
            for row in alone[turn::rounds]:
                started = time.perf_counter()
                contender.run([row])
                latencies[name].append((time.perf_counter() - started) * 1000)
    base = float(np.median(throughputs[baseline]))
    return {
        name: _timing(len(rows), best[name], latencies[name], float(np.median(throughputs[name])), base)
        for name in contenders
    }


def _best_budget(contender: Contender, rows: Sequence[Row]) -> Budget:
    """Return the smallest budget with about the highest throughput."""
    if len(contender.budgets) == 1:
        return contender.budgets[0]
    _rows_per_s(contender, rows, contender.budgets[0])  # whatever is slow the first time
    speeds = [max(_rows_per_s(contender, rows, each) for _ in range(TRIES)) for each in contender.budgets]
    enough = AS_FAST * max(speeds)
    return next(each for each, speed in zip(contender.budgets, speeds, strict=True) if speed >= enough)


def _rows_per_s(contender: Contender, rows: Sequence[Row], budget: Budget) -> float:
    batches = [[rows[i] for i in batch] for batch in plan([len(row) for row in rows], budget)]
    with ThreadPoolExecutor(contender.streams) as pool:
        # Warm caches, and every stream's thread, after the other contender.
        list(pool.map(contender.run, [batches[0]] * contender.streams))
        started = time.perf_counter()
        list(pool.map(contender.run, batches[::-1]))  # the longest first, so that streams end together
        return len(rows) / (time.perf_counter() - started)


def _timing(texts: int, budget: Budget, latencies_ms: list[float], speed: float, base: float) -> Timing:
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(latencies_ms, (50, 95, 99)))
    return Timing(
        texts=texts,
        batch_tokens=budget.tokens,
        latency_ms_p50=p50,
        latency_ms_p95=p95,
        latency_ms_p99=p99,
        texts_per_s=round(speed, 1),
        speed_up=round(speed / base, 3),
    )


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Choose `count` rows evenly, in order of arrival, so that lengths come as they come."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)]
