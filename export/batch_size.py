"""Choose the batch size of a target, from a range that is extended until the best is inside."""

import random
import time
from collections.abc import Sequence
from dataclasses import replace

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.device_errors import classify
from tuneport.runtime.scheduler import BatchLimits, fastest_limits
from tuneport.schema.artifact import Device

from .turns import Batches, TargetRunner, pack

SEED = 29
TRIAL_SECONDS: dict[Device, float] = {"cpu": 0.3, "cuda": 0.1, "tensorrt": 0.1}
"""For each size, its warm-up apart."""
MAX_WAVES, MAX_CYCLES = 8, 3
"""Batches of a trial, for each stream, and how often they are timed: enough for a model that is done in no time."""
MAX_TOKENS: dict[Device, int] = {"cpu": 16_384, "cuda": 262_144, "tensorrt": 16_384}
"""The range is not extended beyond. TensorRT's engines are built for the sizes that are tried first."""


def best_limits(
    runner: TargetRunner, candidates: Sequence[BatchLimits], rows: Sequence[EncodedInput], device: Device
) -> BatchLimits:
    """Return the smallest limits whose throughput is about the highest, of those that fit into the device's memory.

    `candidates` are in ascending order. While the chosen one is the largest or the smallest of them, the range is
    extended, until batches hold all rows or one. Where the smallest does not fit, the range begins below it. A single
    candidate is returned as it is. Raises what the target raises if single rows do not fit.
    """
    if len(candidates) == 1:
        return candidates[0]
    factor = candidates[1].tokens // candidates[0].tokens
    speeds: dict[int, float] = {}
    smallest = candidates[0]
    while not _try(runner, smallest, rows, device, speeds):
        smallest = replace(smallest, tokens=smallest.tokens // factor)
    fit = smallest == candidates[0] and all(_try(runner, limits, rows, device, speeds) for limits in candidates[1:])
    while fit and (chosen := _fastest(candidates[0], speeds)).tokens == max(speeds):
        limits = replace(chosen, tokens=chosen.tokens * factor)
        holds_all = len(pack(rows, chosen)) == 1
        if holds_all or limits.tokens > MAX_TOKENS[device] or not _try(runner, limits, rows, device, speeds):
            break
    while (chosen := _fastest(candidates[0], speeds)).tokens == min(speeds):
        limits = replace(chosen, tokens=chosen.tokens // factor)
        if len(pack(rows, chosen)) == len(rows) or not _try(runner, limits, rows, device, speeds):
            break
    return chosen


def _fastest(template: BatchLimits, speeds: dict[int, float]) -> BatchLimits:
    ordered = sorted(speeds)
    limits = [replace(template, tokens=tokens) for tokens in ordered]
    return fastest_limits(limits, [speeds[tokens] for tokens in ordered])


def _try(
    runner: TargetRunner, limits: BatchLimits, rows: Sequence[EncodedInput], device: Device, speeds: dict[int, float]
) -> bool:
    """Measure limits; returns False if their batches do not fit into the device's memory and smaller ones may."""
    batches = pack(rows, limits)
    try:
        if not speeds:
            _tokens_per_s(runner, batches, 0.0)  # warms the engine up
        speeds[limits.tokens] = _tokens_per_s(runner, batches, TRIAL_SECONDS[device])
    except Exception as error:  # of any engine
        if classify(error) != "memory" or (not speeds and len(batches) == len(rows)):
            raise
        return False
    return True


def _tokens_per_s(runner: TargetRunner, batches: Batches, seconds: float) -> float:
    """Return the tokens a second, padding not counted, of batches drawn at random for about `seconds`.

    They run once before they are timed, because a new shape costs some engines more than the batch.
    """
    drawn = list(batches)
    random.Random(SEED).shuffle(drawn)
    size = min(len(drawn), 1 if runner.streams == 1 else 2 * runner.streams)
    waves: list[Batches] = []
    started = time.perf_counter()
    while not waves or (len(waves) < MAX_WAVES and time.perf_counter() - started < seconds):
        wave = drawn[len(waves) * size : (len(waves) + 1) * size]
        if len(wave) < size:
            break
        waves.append(sorted(wave, key=lambda batch: len(batch[0])))
        runner.run(waves[-1])
    started, cycles = time.perf_counter(), 0
    while cycles == 0 or (cycles < MAX_CYCLES and time.perf_counter() - started < seconds):
        for wave in waves:
            runner.run(wave)
        cycles += 1
    elapsed = time.perf_counter() - started
    return cycles * sum(len(row) for wave in waves for batch in wave for row in batch) / elapsed
