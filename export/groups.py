"""Time torch and the variants in groups, so that few models are in memory at a time.

Every group has the variant that is probably the fastest. The first group has torch's baselines, too. What was measured
of the variants of another group is related to the first one through the variant that both have: its uncertainty widens
their intervals. The comparisons that decide, with the fastest variant, are made within one group.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuneport.runtime.batch import EncodedInput
from tuneport.schema.torch_setup import TorchSetup

from .alternatives import Chosen
from .baselines import honest_baselines
from .benchmark import PRECISION, choose_limits, enough_rows, measure
from .build import VariantBuilder
from .memory import release_memory
from .results import BenchmarkResult, Measured, to_results
from .source import Reference
from .target import BenchmarkTarget
from .variants import VARIANTS

MAX_OPEN = 4
"""Models that are in memory at a time on a CPU: torch's baselines count, too."""
TIMED_ROWS = 200


@dataclass(frozen=True)
class Timings:
    """What was measured of torch and of the variants."""

    results: Mapping[str, BenchmarkResult]
    """Of the baselines and the variants, by name."""
    baselines: Mapping[str, TorchSetup]
    """The reference first."""
    refused: Mapping[str, str]
    """Baselines that are not timed, and why."""


def timed_rows(builder: VariantBuilder) -> list[EncodedInput]:
    """Return the rows that are timed."""
    gate = builder.gate
    rows = builder.family.timed_rows((gate.rows or gate.golden_rows)[:TIMED_ROWS], gate.expected)
    return enough_rows(rows, builder.requirements.device) if builder.family.has_batch_choice else rows


def plan_groups(names: Sequence[str], baselines: int, max_open: int) -> list[list[str]]:
    """Divide variants, the fastest first, into groups of at most `max_open` models; the fastest is in every group.

    The first group is timed beside so many `baselines`, which leave room for one variant at least. Groups without torch
    have one model less, because engines keep more memory than torch.
    """
    count, size = max(1, max_open - baselines), max(1, max_open - 2)
    rest = names[count:]
    return [[*names[:count]], *([names[0], *rest[at : at + size]] for at in range(0, len(rest), size))]


def time_in_groups(
    builder: VariantBuilder, reference: Reference, setups: tuple[TorchSetup, ...], chosen: Mapping[str, Chosen]
) -> Timings:
    """Time torch's baselines and the variants; on a GPU, whose memory the models share with nobody, in one group."""
    names = sorted(chosen, key=lambda name: chosen[name].cost)
    is_bounded = builder.requirements.device == "cpu"
    groups = plan_groups(names, len(setups), MAX_OPEN if is_bounded else len(setups) + len(names))
    precision = PRECISION if len(groups) == 1 else PRECISION / math.sqrt(2)  # the widths of two intervals add up
    first = functools.partial(_time_beside_torch, builder, reference, setups, groups[0], chosen, precision)
    measured, baselines, refused = builder.steps.run(first)
    release_memory()
    measured = dict(measured)
    for number, group in enumerate(groups[1:], 1):
        time_it = functools.partial(_time_variants, builder, group, chosen, precision, number)
        measured |= related(builder.steps.run(time_it), measured, anchor=names[0])
        release_memory()
    return Timings(to_results(measured, timed_rows(builder), PRECISION), baselines, refused)


def related(measured: Mapping[str, Measured], first: Mapping[str, Measured], *, anchor: str) -> dict[str, Measured]:
    """Return what the targets of a group but the `anchor` would have shown in the first group, which has it, too."""
    return {name: each.rescaled(measured[anchor], first[anchor]) for name, each in measured.items() if name != anchor}


def _time_beside_torch(
    builder: VariantBuilder,
    reference: Reference,
    setups: tuple[TorchSetup, ...],
    names: Sequence[str],
    chosen: Mapping[str, Chosen],
    precision: float,
) -> tuple[dict[str, Measured], dict[str, TorchSetup], Mapping[str, str]]:
    """Time the first group; also return the baselines with their setups, and why others are refused."""
    builder.progress("comparing torch's baselines with the reference")
    baselines = honest_baselines(reference.gate, builder.family, reference.model, setups)
    rows, targets = timed_rows(builder), {}
    for name, model in baselines.models.items():
        target = BenchmarkTarget.of_torch(model, has_batch_choice=builder.family.has_batch_choice)
        targets[name] = target.with_limits(choose_limits(name, target, rows, builder.progress))
    release_memory()
    targets |= open_variants(builder, names, chosen)
    measured = measure(targets, rows, precision=precision, progress=builder.progress)
    return measured, {name: model.setup for name, model in baselines.models.items()}, baselines.refused


def _time_variants(
    builder: VariantBuilder, names: Sequence[str], chosen: Mapping[str, Chosen], precision: float, number: int
) -> dict[str, Measured]:
    targets = open_variants(builder, names, chosen)
    return measure(targets, timed_rows(builder), precision=precision, group=number, progress=builder.progress)


def open_variants(
    builder: VariantBuilder, names: Sequence[str], chosen: Mapping[str, Chosen]
) -> dict[str, BenchmarkTarget]:
    """Open variants as they will serve."""
    targets = {}
    for name in names:
        execution, is_student = chosen[name].execution, VARIANTS[name].student_of is not None
        runner = builder.open(execution)
        target = BenchmarkTarget.of_runner(runner, execution.device, execution.precision, is_student=is_student)
        targets[name] = target.with_limits(runner.limits)
    release_memory()  # of compiling them
    return targets
