"""Time targets in turns, batch by batch, so that what slows the host for a while slows all of them alike."""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.scheduler import BatchLimits, pack_batches

Batches = list[list[EncodedInput]]
SEED = 23
CHECK_EVERY = 4
"""Turns between two looks at the intervals, which cost a few hundredths of a second."""
LATENCY_BLOCK = 5
"""Single rows that a target runs in its turn, after one that is not timed."""


class TargetRunner:
    """Runs the batches of one target on its streams, in threads that live as long as the benchmark."""

    def __init__(self, run_batch: Callable[[Sequence[EncodedInput]], Any], streams: int, min_seconds: float) -> None:
        """Start no thread yet; a turn repeats its batches for at least `min_seconds`."""
        self.run_batch = run_batch
        self.streams = streams
        self._min_seconds = min_seconds
        self._pool = ThreadPoolExecutor(streams)

    def run(self, batches: Batches) -> None:
        """Run batches once, the last first."""
        list(self._pool.map(self.run_batch, batches[::-1]))

    def seconds(self, batches: Batches) -> float:
        """Return the seconds that batches take: the mean of as many runs as the shortest turn holds, or one."""
        started, runs = time.perf_counter(), 0
        while True:
            self.run(batches)
            runs += 1
            elapsed = time.perf_counter() - started
            if elapsed >= self._min_seconds:
                return elapsed / runs

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()


@dataclass(frozen=True)
class Stop:
    """When to stop timing."""

    is_precise: Callable[[Mapping[str, list[float]]], bool]
    """Whether the seconds of the turns so far suffice."""
    is_decided: Callable[[Mapping[str, list[float]]], bool]
    """Whether they tell which target is the best; if not, the limits of time and turns are `patience` times as high."""
    patience: int
    min_turns: int
    """Turns before `is_precise` is asked."""
    enough_turns: int
    """Turns after which the other limits hold."""
    max_turns: int
    max_seconds: float


def split_rows(rows: Sequence[EncodedInput], tokens: int) -> list[list[EncodedInput]]:
    """Split rows into parts of at least `tokens` tokens, as long as there are, with the same mixture of lengths."""
    count = max(1, min(sum(map(len, rows)) // tokens, len(rows)))
    ordered = sorted(rows, key=len)
    return [ordered[first::count] for first in range(count)]


def pack(rows: Sequence[EncodedInput], limits: BatchLimits) -> Batches:
    """Return the batches of rows within the limits, those of the shortest rows first."""
    return [[rows[i] for i in batch] for batch in pack_batches([len(row) for row in rows], limits)]


def time_turns(
    runners: Mapping[str, TargetRunner],
    parts: Mapping[str, list[Batches]],
    stop: Stop,
    progress: Callable[[str], object],
) -> dict[str, list[float]]:
    """Return the seconds of every target's turns; in turn i all have run the same rows, part i modulo their number.

    In each turn the targets follow each other in a random order, seeded. The first pass over all parts is the warm-up:
    it meets every shape for the first time, and is not timed.
    """
    shuffled = random.Random(SEED)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    count = len(next(iter(parts.values())))
    for name, runner in runners.items():
        progress(f"warming up {name}")
        for batches in parts[name]:
            runner.run(batches)
    started, turn = time.perf_counter(), 0
    while not _is_over(stop, seconds, turn, time.perf_counter() - started):
        if turn % CHECK_EVERY == 0:
            progress(f"timing batches, turn {turn + 1}")
        for name in _shuffled(runners, shuffled):
            batches = parts[name][turn % count]
            if len(batches) > 1:
                runners[name].run(batches[:1])  # the caches hold the data of the target before
            seconds[name].append(runners[name].seconds(batches))
        turn += 1
    return seconds


def time_single_rows(
    runners: Mapping[str, TargetRunner], rows: Sequence[EncodedInput], *, enough: int, max_seconds: float
) -> dict[str, list[float]]:
    """Return the milliseconds of every target for each row alone; all run the same rows, in short blocks by turns.

    Ends early after `max_seconds`, with `enough` rows.
    """
    shuffled = random.Random(SEED)
    latencies_ms: dict[str, list[float]] = {name: [] for name in runners}
    started = time.perf_counter()
    for first in range(0, len(rows), LATENCY_BLOCK):
        block = rows[first : first + LATENCY_BLOCK]
        for name in _shuffled(runners, shuffled):
            run_batch = runners[name].run_batch
            run_batch(block[:1])
            for row in block:
                began = time.perf_counter()
                run_batch([row])
                latencies_ms[name].append((time.perf_counter() - began) * 1000)
        if first + LATENCY_BLOCK >= enough and time.perf_counter() - started > max_seconds:
            break
    return latencies_ms


def _is_over(stop: Stop, seconds: Mapping[str, list[float]], turns: int, elapsed_s: float) -> bool:
    if turns >= stop.min_turns and turns % CHECK_EVERY == 0 and stop.is_precise(seconds):
        return True
    if turns < stop.enough_turns or not _is_long(stop, turns, elapsed_s):
        return False
    return _is_long(stop, turns / stop.patience, elapsed_s / stop.patience) or stop.is_decided(seconds)


def _is_long(stop: Stop, turns: float, elapsed_s: float) -> bool:
    return elapsed_s > stop.max_seconds or turns >= stop.max_turns


def _shuffled(names: Iterable[str], chance: random.Random) -> list[str]:
    order = list(names)
    chance.shuffle(order)
    return order
