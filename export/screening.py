"""Choose which variants of the student are worth building, by the cost of the same variants of the full model."""

from collections.abc import Mapping

from tuneport.errors import EngineError
from tuneport.schema.artifact import Rejected

from .build import VariantBuilder
from .variants import VariantSpec

CLOSE = 1.25
"""Variants this much slower than the fastest may still be the fastest with fewer layers: they were timed apart."""


def screen_students(
    builder: VariantBuilder, specs: Mapping[str, VariantSpec], costs: Mapping[str, float]
) -> tuple[dict[str, VariantSpec], list[Rejected]]:
    """Return the variants of the student that may become the default, and the others with the reason.

    `costs` are those of the variants that passed, by name. Nothing is trained for this.
    """
    if not specs:
        return {}, []
    try:
        assert builder.context.student is not None  # its variants need data
        builder.context.student.check()
    except EngineError as error:
        return {}, [Rejected(name=name, reason=error.problem) for name in specs]
    best = min(costs, key=costs.__getitem__)
    chosen, rejected = {}, []
    for name, spec in specs.items():
        full = spec.student_of
        assert full is not None
        if full not in costs:
            rejected.append(Rejected(name=name, reason=f"it is not built, because {full} is not in the artifact"))
        elif costs[full] > CLOSE * costs[best]:
            ratio = costs[full] / costs[best]
            reason = f"it is not built, because {full} costs {ratio:.2f} times as much as {best}"
            rejected.append(Rejected(name=name, reason=reason))
        else:
            chosen[name] = spec
    return chosen, rejected
