"""Select the default variant of an artifact."""

from collections.abc import Callable, Sequence

from tuneport.schema.artifact import Variant

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


def select_default(variants: Sequence[Variant], objective: Objective) -> tuple[str, str]:
    """Return the name of the best variant by the objective, and the reason in a sentence."""
    best = min(variants, key=_COSTS[objective])
    reason, show = _REASONS[objective]
    figures = ", ".join(f"{variant.name} {show(variant)}" for variant in variants)
    texts = best.evidence.timing.texts
    return best.name, f"{reason} of those that passed, measured on {texts} inputs of mixed length: {figures}"
