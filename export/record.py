"""Measure memory and cold start of the variants, and put them together with their evidence."""

from collections.abc import Mapping, Sequence

from tuneport.errors import EngineError
from tuneport.schema.artifact import Evidence, Execution, Rejected, Variant

from .alternatives import Chosen
from .build import FP32, Passed, VariantBuilder
from .footprint import measure_footprint
from .gate import Measurement
from .results import BenchmarkResult


def record_variants(
    builder: VariantBuilder,
    labels: tuple[str, ...],
    passed: Sequence[Passed],
    results: Mapping[str, BenchmarkResult],
    chosen: Mapping[str, Chosen],
) -> tuple[list[Variant], list[Rejected]]:
    """Return the variants with their evidence, and those that do not open in a process of their own, as servers do.

    Raises EngineError if fp32 does not open.
    """
    variants, rejected = [], []
    for each in passed:
        name = each.candidate.name
        try:
            variants.append(record_variant(builder, labels, each, results[name], chosen[name].execution))
        except EngineError as error:
            if name == FP32:
                raise
            rejected.append(builder.reject(name, error, Measurement(each.parity, each.metric)))
    return variants, rejected


def record_variant(
    builder: VariantBuilder, labels: tuple[str, ...], passed: Passed, result: BenchmarkResult, execution: Execution
) -> Variant:
    """Measure memory and cold start, and return the variant with its evidence."""
    name = passed.candidate.name
    builder.progress(f"measuring memory and cold start of {name}")
    inputs = [case.input for case in builder.gate.golden]
    footprint = measure_footprint(builder.folder, builder.task_name, labels, builder.processing, execution, inputs)
    evidence = Evidence(
        parity=passed.parity,
        metric=passed.metric,
        tolerance=passed.tolerance,
        fp32_parts=passed.fp32_parts,
        student=passed.student,
        timing=result.timing,
        footprint=footprint,
    )
    return Variant(name=name, execution=execution, evidence=evidence)
