"""Select the default variant of an artifact."""

from collections.abc import Callable, Mapping, Sequence

from tuneport.schema.artifact import Interval, Manifest, Variant

from .benchmark import TIE
from .config import Objective
from .results import BenchmarkResult
from .target import distance

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


def gain(objective: Objective, result: BenchmarkResult, other: BenchmarkResult) -> Interval:
    """Return the interval of how many times better a result is than another; for size of the throughput."""
    return _GAINS.get(objective, BenchmarkResult.speed_over)(result, other)


def select_default(
    variants: Sequence[Variant], objective: Objective, results: Mapping[str, BenchmarkResult]
) -> tuple[str, str]:
    """Return the name of the best variant by the objective, and the reason in a sentence.

    A simpler variant, which is closer to the model as it was trained or earlier in the list, is preferred where the two
    tie: the best one is not better beyond noise, and was measured at most `TIE` times as good. Beyond that the measured
    figure decides, proven or not: simplicity is worth 5 % of the speed, and no more. A student, which is another model,
    has to be better beyond noise. `results` are those of the variants, by name.
    """
    best = min(variants, key=_COSTS[objective])
    full = [variant for variant in variants if variant.evidence.student is None]
    if best.evidence.student is not None and full and objective != "size":
        rival = min(full, key=_COSTS[objective])
        low, high = gain(objective, results[best.name], results[rival.name])
        if low <= 1:
            name, because = select_default(full, objective, results)
            return name, f"{because}; {best.name}, a student, is {low:.2f} to {high:.2f} times as good, no proof"
    reason, show = _REASONS[objective]
    figures = ", ".join(f"{variant.name} {show(variant)}" for variant in variants)
    texts = best.evidence.timing.texts
    sentence = f"{reason} of those that passed, measured on {texts} inputs of mixed length: {figures}"
    if objective == "size":
        return best.name, sentence
    doubts = []
    for variant in sorted(variants, key=_distance):
        if variant is best:
            break
        low, high = gain(objective, results[best.name], results[variant.name])
        doubt = f"{best.name} is {low:.2f} to {high:.2f} times as good as {variant.name}"
        if low <= 1 and _ratio(objective, best, variant) <= TIE:
            return variant.name, f"{sentence}; {doubt}, no proof, so the simpler one serves"
        if low <= 1:
            doubts.append(f"{doubt}, which more measurements would have to confirm")
    return best.name, "; ".join([sentence, *doubts])


def slower_than_torch(manifest: Manifest) -> str | None:
    """Return a sentence on the torch that is faster than the default variant, beyond noise; None without one.

    Of all precisions that predict as the checkpoint does: users would run the fastest.
    """
    name = manifest.faster_torch
    if name is None:
        return None
    torch = next(each.timing for each in manifest.baselines if each.setup.name == name)
    served = manifest.variant().evidence.timing
    return (
        f"{name} is faster in batches on the same device, beyond noise: {torch.texts_per_s:g} inputs/s where "
        f"{manifest.default_variant} makes {served.texts_per_s:g}"
    )


def _ratio(objective: Objective, best: Variant, other: Variant) -> float:
    """Return how many times as good the best variant was measured."""
    one, two = _COSTS[objective](best), _COSTS[objective](other)
    return two / one if objective == "latency" else one / two


def _distance(variant: Variant) -> tuple[bool, int]:
    """Return how far a variant is from the model as it was trained."""
    return distance(variant.execution.precision, is_student=variant.evidence.student is not None)
