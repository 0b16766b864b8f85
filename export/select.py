"""Select the default variant of an artifact."""

from collections.abc import Callable, Mapping, Sequence

from tuneport.schema.artifact import Interval, Precision, Variant

from .benchmark import BenchmarkResult
from .config import Objective

_COSTS: dict[Objective, Callable[[Variant], float]] = {
    "latency": lambda variant: variant.evidence.timing.latency_ms_p50,
    "throughput": lambda variant: -variant.evidence.timing.texts_per_s,
    "size": lambda variant: variant.execution.size_bytes,
}
_REASONS: dict[Objective, tuple[str, Callable[[Variant], str]]] = {
    "latency": (
        "the lowest latency of single inputs (p50)",
        lambda variant: f"{variant.evidence.timing.latency_ms_p50:g} ms",
    ),
    "throughput": ("the highest throughput in inputs/s", lambda variant: f"{variant.evidence.timing.texts_per_s:g}"),
    "size": ("the smallest files", lambda variant: f"{variant.execution.size_bytes / 1e6:.1f} MB"),
}
_GAINS: dict[Objective, Callable[[BenchmarkResult, BenchmarkResult], Interval]] = {
    "latency": BenchmarkResult.quickness_over,
    "throughput": BenchmarkResult.speed_over,
}
"""Interval of how many times better one result is than another; a file's size has none."""
_APPROXIMATION: dict[Precision, int] = {"fp32": 0, "bf16": 1, "fp16": 1, "int8": 2, "int4": 3}
"""How far a precision is from the model as it was trained."""


def gain(objective: Objective, result: BenchmarkResult, other: BenchmarkResult) -> Interval:
    """Return the interval of how many times better a result is than another; for size of the throughput."""
    return _GAINS.get(objective, BenchmarkResult.speed_over)(result, other)


def select_default(
    variants: Sequence[Variant], objective: Objective, results: Mapping[str, BenchmarkResult]
) -> tuple[str, str]:
    """Return the name of the best variant by the objective, and the reason in a sentence.

    A variant that the best one is not faster than beyond noise is preferred if it is simpler: closer to the model as
    it was trained, or earlier in the list. `results` are those of the variants, by name.
    """
    best = min(variants, key=_COSTS[objective])
    reason, show = _REASONS[objective]
    figures = ", ".join(f"{variant.name} {show(variant)}" for variant in variants)
    texts = best.evidence.timing.texts
    sentence = f"{reason} of those that passed, measured on {texts} inputs of mixed length: {figures}"
    if objective == "size":
        return best.name, sentence
    for variant in sorted(variants, key=_simplicity):
        if variant is best:
            break
        low, high = gain(objective, results[best.name], results[variant.name])
        if low <= 1:
            doubt = f"{best.name} is {low:.2f} to {high:.2f} times as good, no proof, so the simpler one serves"
            return variant.name, f"{sentence}; {doubt}"
    return best.name, sentence


def _simplicity(variant: Variant) -> tuple[bool, int]:
    """Return how far a variant is from the model as it was trained; a student is further than any precision."""
    return variant.evidence.student is not None, _APPROXIMATION[variant.execution.precision]
