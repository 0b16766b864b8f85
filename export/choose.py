"""Which of the variants that passed serves unless another is asked for."""

from collections.abc import Callable, Sequence
from typing import Literal

from export.manifest import Timing, Variant

Objective = Literal["latency", "throughput", "size"]


def choose_default(variants: Sequence[Variant], objective: Objective) -> tuple[str, str]:
    """Choose the best by the objective, and say why in a sentence."""
    best = min(variants, key=lambda variant: _cost(variant, objective))
    what: dict[Objective, tuple[str, Callable[[Variant], str]]] = {
        "latency": ("the lowest latency of one input at a time (p50)", lambda v: f"{_timing(v).latency_ms_p50:g} ms"),
        "throughput": ("the most inputs/s", lambda v: f"{_timing(v).texts_per_s:g}"),
        "size": ("the smallest files", lambda v: f"{v.size_bytes / 1e6:.1f} MB"),
    }
    said, show = what[objective]
    figures = ", ".join(f"{variant.name} {show(variant)}" for variant in variants)
    texts = _timing(best).texts
    return best.name, f"{said} of those that passed, measured here on {texts} inputs of mixed length: {figures}"


def _cost(variant: Variant, objective: Objective) -> float:
    if objective == "size":
        return variant.size_bytes
    return _timing(variant).latency_ms_p50 if objective == "latency" else -_timing(variant).texts_per_s


def _timing(variant: Variant) -> Timing:
    assert variant.timing is not None
    return variant.timing
