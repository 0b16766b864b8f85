"""Build and check the variants of an export: those of the full model first, then those of its student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuneport.schema.artifact import Rejected

from .alternatives import Chosen, choose_execution
from .build import Passed, VariantBuilder
from .groups import timed_rows
from .memory import release_memory
from .screening import screen_students
from .variants import VariantSpec


@dataclass(frozen=True)
class Validated:
    """The variants that passed, with the best way to run each, by its name, and those that failed."""

    passed: tuple[Passed, ...]
    chosen: Mapping[str, Chosen]
    rejected: tuple[Rejected, ...]


def validate_variants(
    builder: VariantBuilder, specs: Mapping[str, VariantSpec], named: Sequence[str] = ()
) -> Validated:
    """Build and check every variant, and choose how it runs.

    One that replaces another is left out if that passed, unless it was `named`. Those of the student come last, because
    the speed of the others decides which of them are worth building.
    """
    full = {name: spec for name, spec in specs.items() if not spec.student_of}
    passed, rejected = _validate(builder, full, named)
    chosen = _choose_executions(builder, passed)
    students = {name: spec for name, spec in specs.items() if spec.student_of}
    if not named:
        costs = {name: each.cost for name, each in chosen.items()}
        students, unbuilt = screen_students(builder, students, costs)
        rejected += unbuilt
    if students and builder.context.student:
        builder.progress("looking for a student")
        builder.context.student.make()
    passed_students, rejected_students = _validate(builder, students, named)
    chosen |= _choose_executions(builder, passed_students)
    return Validated((*passed, *passed_students), chosen, (*rejected, *rejected_students))


def _validate(
    builder: VariantBuilder, specs: Mapping[str, VariantSpec], named: Sequence[str]
) -> tuple[list[Passed], list[Rejected]]:
    passed: list[Passed] = []
    rejected: list[Rejected] = []
    for name, spec in specs.items():
        is_needed = spec.replaces not in {each.candidate.name for each in passed}
        if not is_needed and name not in named:
            continue
        builder.progress(f"building and checking {name}")
        outcome = builder.build_and_validate(name, spec)
        release_memory()
        if isinstance(outcome, Passed):
            passed.append(outcome)
        else:
            rejected.append(outcome)
    return passed, rejected


def _choose_executions(builder: VariantBuilder, passed: Sequence[Passed]) -> dict[str, Chosen]:
    """Choose for each variant, alone: an engine keeps the memory of the largest batch that it has run."""
    rows = timed_rows(builder)
    chosen = {}
    for each in passed:
        chosen[each.candidate.name] = choose_execution(builder, each, rows)
        release_memory()
    return chosen
