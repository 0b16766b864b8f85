"""Choose which variants of the student are worth building, by the speed of the same variants of the full model."""

import functools
import time
from collections.abc import Mapping, Sequence

from tuneport.errors import EngineError
from tuneport.runtime.batch import EncodedInput
from tuneport.schema.artifact import Execution, Rejected

from .build import Passed, VariantBuilder
from .memory import release_memory
from .variants import VariantSpec

TIMED_ROWS, SINGLE_ROWS, REPETITIONS = 48, 8, 3
CLOSE = 1.25
"""Variants this much slower than the fastest may still be the fastest with fewer layers: the timing is short."""


def screen_students(
    builder: VariantBuilder, specs: Mapping[str, VariantSpec], passed: Sequence[Passed]
) -> tuple[dict[str, VariantSpec], list[Rejected]]:
    """Return the variants of the student that may become the default, and the others with the reason.

    Nothing is trained for this.
    """
    if not specs:
        return {}, []
    try:
        assert builder.context.student is not None  # its variants need data
        builder.context.student.check()
    except EngineError as error:
        return {}, [Rejected(name=name, reason=error.problem) for name in specs]
    costs = measure_costs(builder, passed)
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


def measure_costs(builder: VariantBuilder, passed: Sequence[Passed]) -> dict[str, float]:
    """Return what each variant costs by the objective: bytes, or the shortest of a few short timings, in seconds."""
    if builder.requirements.objective == "size":
        return {each.candidate.name: float(each.candidate.execution.size_bytes) for each in passed}
    is_latency = builder.requirements.objective == "latency"
    rows = (builder.gate.rows or builder.gate.golden_rows)[: SINGLE_ROWS if is_latency else TIMED_ROWS]
    builder.progress("comparing the speed of the variants, to choose those of the student")
    costs = {}
    for each in passed:
        time_it = functools.partial(_shortest_s, builder, each.candidate.execution, rows, is_latency=is_latency)
        costs[each.candidate.name] = builder.steps.run(time_it)
        release_memory()
    return costs


def _shortest_s(
    builder: VariantBuilder, execution: Execution, rows: Sequence[EncodedInput], *, is_latency: bool
) -> float:
    """Return the seconds of the fastest of a few runs; the first run, which meets each shape anew, does not count."""
    runner, seconds = builder.open(execution), []
    for _ in range(1 + REPETITIONS):
        started = time.perf_counter()
        if is_latency:
            for row in rows:
                runner.run_batch([row])
        else:
            runner.run(rows)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
