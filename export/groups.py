"""Time torch and the variants in groups, so that few models are in memory at a time.

The first group has torch's baselines and the variants of the lowest cost: those that were the fastest when each was
timed alone or, of generative models and for the objective size, those with the smallest files. The fastest variant of
the first group, the anchor, is in every other group: what was measured there is related to the first group through it,
and its uncertainty widens their intervals. All groups have turns of one size, because padding depends on it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.scheduler import BatchLimits
from tuneport.schema.torch_setup import REFERENCE, TorchSetup

from .alternatives import Chosen
from .baselines import honest_baselines
from .benchmark import PRECISION, choose_limits, enough_rows, measure, tokens_needed
from .build import VariantBuilder
from .config import Objective
from .memory import release_memory
from .reference import TorchModel
from .results import BenchmarkResult, Measured, to_results
from .source import Reference
from .target import BenchmarkTarget
from .torch_device import TorchOutOfMemory
from .variants import VARIANTS

MAX_OPEN = 3
"""Models that are in memory at a time on a CPU: torch's baselines count, too."""
TIMED_ROWS = 200
Result = TypeVar("Result")


@dataclass(frozen=True)
class Timings:
    """What was measured of torch and of the variants."""

    results: Mapping[str, BenchmarkResult]
    """Of the baselines and the variants, by name."""
    baselines: Mapping[str, TorchSetup]
    """The reference first."""
    refused: Mapping[str, str]
    """Baselines that are not timed, and why; speed-ups are against the others."""


def timed_rows(builder: VariantBuilder) -> list[EncodedInput]:
    """Return the rows that are timed."""
    gate = builder.gate
    rows = builder.family.timed_rows((gate.rows or gate.golden_rows)[:TIMED_ROWS], gate.expected)
    return enough_rows(rows, builder.requirements.device) if builder.family.has_batch_choice else rows


def plan_groups(names: Sequence[str], baselines: int, max_open: int) -> list[list[str]]:
    """Divide variants, the cheapest first, into groups that are timed with at most `max_open` models open.

    The first group is timed beside so many `baselines`, which leave room for one variant at least. The others are timed
    beside the anchor, a variant of the first group. They have one model less, because engines keep more memory than
    torch.
    """
    count, size = max(1, max_open - baselines), max(1, max_open - 2)
    return [[*names[:count]], *([*names[at : at + size]] for at in range(count, len(names), size))]


def time_in_groups(
    builder: VariantBuilder, reference: Reference, setups: tuple[TorchSetup, ...], chosen: Mapping[str, Chosen]
) -> Timings:
    """Time torch's baselines and the variants; on a GPU, whose memory the models share with nobody, in one group."""
    names = sorted(chosen, key=lambda name: chosen[name].cost)
    is_bounded = builder.requirements.device == "cpu"
    beside_torch, *others = plan_groups(names, len(setups), MAX_OPEN if is_bounded else len(setups) + len(names))
    precision = PRECISION / math.sqrt(2) if others else PRECISION  # the widths of two intervals add up
    timer = GroupTimer(builder, chosen, precision)
    first = timer.beside_torch(reference, setups, beside_torch)
    anchor = fastest({name: first.measured[name] for name in beside_torch}, builder.requirements.objective)
    measured = dict(first.measured)
    for number, group in enumerate(others, 1):
        measured |= related(timer.variants([anchor, *group], number, first.turn_tokens), measured, anchor=anchor)
    return Timings(to_results(measured, timer.rows, PRECISION), first.baselines, first.refused)


def fastest(measured: Mapping[str, Measured], objective: Objective) -> str:
    """Return the target of the lowest latency, or of the highest throughput where that is not the objective."""
    if objective == "latency":
        return min(measured, key=lambda name: measured[name].latencies_ms.median)
    return min(measured, key=lambda name: measured[name].seconds.median)


def related(measured: Mapping[str, Measured], first: Mapping[str, Measured], *, anchor: str) -> dict[str, Measured]:
    """Return what the targets of a group but the `anchor` would have shown in the first group, which has it, too."""
    return {name: each.rescaled(measured[anchor], first[anchor]) for name, each in measured.items() if name != anchor}


@dataclass(frozen=True)
class BesideTorch:
    """What was measured of the first group."""

    measured: Mapping[str, Measured]
    """Of the baselines and the variants, by name."""
    baselines: Mapping[str, TorchSetup]
    refused: Mapping[str, str]
    """As in `Timings`."""
    turn_tokens: int
    """The size of its turns, which the other groups must have, too."""


class GroupTimer:
    """Times groups of models, each in a step of its own."""

    def __init__(self, builder: VariantBuilder, chosen: Mapping[str, Chosen], precision: float) -> None:
        """Read the rows that all groups run; `precision` is that of `measure`."""
        self.rows = timed_rows(builder)
        self._builder, self._chosen, self._precision = builder, chosen, precision

    def beside_torch(self, reference: Reference, setups: tuple[TorchSetup, ...], names: Sequence[str]) -> BesideTorch:
        """Time torch's baselines and some variants."""
        return self._step(lambda: self._beside_torch(reference, setups, names))

    def variants(self, names: Sequence[str], number: int, turn_tokens: int) -> dict[str, Measured]:
        """Time the variants of another group, in turns of the first one's size."""
        return self._step(lambda: self._measure(self._open(names), number, turn_tokens))

    def _step(self, step: Callable[[], Result]) -> Result:
        result = self._builder.steps.run(step)
        release_memory()
        return result

    def _beside_torch(self, reference: Reference, setups: tuple[TorchSetup, ...], names: Sequence[str]) -> BesideTorch:
        builder = self._builder
        builder.progress("comparing torch's baselines with the reference")
        compared = honest_baselines(reference.gate, builder.family, reference.model, setups)
        models, refused = dict(compared.models), dict(compared.refused)
        del compared  # it would keep baselines in memory that are left out
        targets: dict[str, BenchmarkTarget] = {}
        for name in list(models):
            try:
                targets[name] = self._target(name, models[name])
            except TorchOutOfMemory as error:
                _leave_out(error, models, targets, refused)
        release_memory()
        variants = self._open(names)
        while True:
            turn_tokens = self._turn_tokens(targets.values())
            try:
                measured = self._measure(targets | variants, 0, turn_tokens)
                setups_of = {name: model.setup for name, model in models.items()}
                return BesideTorch(measured, setups_of, refused, turn_tokens)
            except TorchOutOfMemory as error:  # beside the others, which hold their memory
                if error.rows > 1:
                    targets[error.name] = _with_smaller_batches(targets[error.name])
                else:
                    _leave_out(error, models, targets, refused)
            release_memory()

    def _target(self, name: str, model: TorchModel) -> BenchmarkTarget:
        """Return a baseline with its best batch size; raises TorchOutOfMemory if one row does not fit."""
        target = BenchmarkTarget.of_torch(model, has_batch_choice=self._builder.family.has_batch_choice)
        return target.with_limits(choose_limits(name, target, self.rows, self._builder.progress))

    def _turn_tokens(self, baselines: Iterable[BenchmarkTarget]) -> int:
        """Return the tokens of a turn that keep every baseline and every variant busy, of whatever group it is."""
        of_torch = [tokens_needed(target, target.limits[0]) for target in baselines]
        executions = [each.execution for each in self._chosen.values()]
        return max([*of_torch, *(tokens_needed(each, BatchLimits.of(each)) for each in executions)])

    def _measure(self, targets: Mapping[str, BenchmarkTarget], number: int, turn_tokens: int) -> dict[str, Measured]:
        return measure(
            targets,
            self.rows,
            precision=self._precision,
            max_seconds=self._builder.requirements.max_seconds,
            group=number,
            turn_tokens=turn_tokens,
            progress=self._builder.progress,
        )

    def _open(self, names: Sequence[str]) -> dict[str, BenchmarkTarget]:
        """Open variants as they will serve."""
        targets = {}
        for name in names:
            execution, is_student = self._chosen[name].execution, VARIANTS[name].student_of is not None
            runner = self._builder.open(execution)
            target = BenchmarkTarget.of_runner(runner, execution.device, execution.precision, is_student=is_student)
            targets[name] = target.with_limits(runner.limits)
        release_memory()  # of compiling them
        return targets


def _with_smaller_batches(target: BenchmarkTarget) -> BenchmarkTarget:
    (limits,) = target.limits
    return target.with_limits(replace(limits, tokens=max(1, limits.tokens // 2)))


def _leave_out(
    error: TorchOutOfMemory,
    models: dict[str, TorchModel],
    targets: dict[str, BenchmarkTarget],
    refused: dict[str, str],
) -> None:
    """Let go of a baseline that does not fit into the device's memory; the reference, which all need, must."""
    if error.name == REFERENCE:
        raise error
    models.pop(error.name)
    targets.pop(error.name, None)
    refused[error.name] = error.reason
