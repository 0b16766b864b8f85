"""Export a checkpoint: torch's outputs → ONNX → variants → gate → benchmark → selection → artifact."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tuneport.errors import EngineError, TuneportError
from tuneport.folders import check_out, new_folder
from tuneport.runtime.batch import EncodedInput
from tuneport.schema.artifact import (
    MANIFEST,
    BaselineTiming,
    Calibration,
    Evidence,
    Execution,
    Manifest,
    Processing,
    Rejected,
    Variant,
)
from tuneport.schema.torch_setup import REFERENCE, TorchSetup

from .alternatives import choose_execution
from .applicable import select_variants
from .artifact import write_artifact
from .baselines import baseline_setups, honest_baselines, reference_setup
from .benchmark import BenchmarkResult, BenchmarkTarget, benchmark, choose_limits, enough_rows
from .build import FP32, Passed, Requirements, VariantBuilder
from .build_context import build_context
from .calibration import calibrate
from .checkpoint import Checkpoint
from .config import ExportConfig, artifact_name
from .device import check_device
from .footprint import measure_footprint
from .gate import Measurement
from .graph import Graph
from .memory import release_memory
from .screening import screen_students
from .source import Reference, Source, compute_reference, open_source
from .steps import Steps
from .torch_device import TORCH_DEVICES
from .variants import VARIANTS, VariantSpec

TIMED_ROWS = 200
Progress = Callable[[str], object]


def export(
    config: ExportConfig,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress = lambda _: None,
    steps_apart: bool = False,
) -> Manifest:
    """Export a checkpoint to an artifact with the variants that pass their gate; returns its manifest.

    Nothing is written to `out` unless fp32 passes. Raises TuneportError for a checkpoint, data or settings that
    cannot be used, and GateError if the outputs of fp32 differ from torch's. `progress` gets a line for each step.
    With `steps_apart` each step for a CPU runs in a process of its own, which takes less memory; the process that calls
    this must not have used torch or an engine before.
    """
    steps = Steps(progress, are_apart=steps_apart and config.device == "cpu")
    check_out(out, marker=MANIFEST, overwrite=overwrite)
    select_variants(config.variants, config.device)  # fail on unknown variants before any work
    check_device(config.device)
    progress("reading the checkpoint and the data")
    source = open_source(config)
    specs = select_variants(config.variants, config.device, rows=len(source.sample.inputs), family=source.family.name)
    _check_depth(source.checkpoint, config, specs)
    with new_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        progress("computing torch's outputs")
        reference = compute_reference(source, folder, reference_setup(TORCH_DEVICES[config.device]), steps)
        calibration, processing = calibrate_temperature(source, reference)
        builder = prepare_builder(config, source, reference, processing, folder, steps)
        passed, rejected = validate_variants(builder, specs, config.variants)
        executions = choose_executions(builder, passed)
        setups = baseline_setups(TORCH_DEVICES[config.device])
        results, baselines, refused = steps.run(lambda: time_side_by_side(builder, reference, setups, executions))
        variants, unopened = record_variants(builder, source.checkpoint.labels, passed, results, executions)
        return write_artifact(
            folder,
            config.name or artifact_name(out),
            config,
            source,
            processing=processing,
            signature=source.family.signature(builder.context.fp32),
            variants=variants,
            results=results,
            rejected=[*rejected, *unopened],
            torch=baselines[REFERENCE],
            baselines=[
                BaselineTiming(
                    setup=setup, timing=results[name].timing, max_batch_tokens=results[name].max_batch_tokens
                )
                for name, setup in baselines.items()
            ],
            refused_baselines=refused,
            calibration=calibration,
        )


def prepare_builder(
    config: ExportConfig, source: Source, reference: Reference, processing: Processing, folder: Path, steps: Steps
) -> VariantBuilder:
    """Convert to the fp32 graph, and return what builds and checks variants of it."""
    steps.progress("converting to ONNX")
    graph = steps.run(lambda: convert(source, reference, folder))
    release_memory()
    return VariantBuilder(
        folder=folder,
        task_name=source.checkpoint.task,
        runtime_task=reference.runtime_task,
        processing=processing,
        family=source.family,
        requirements=Requirements(config.device, config.objective, config.max_drop, config.mixed_precision_minutes),
        gate=reference.gate,
        context=build_context(config, source, reference, graph, steps),
        steps=steps,
    )


def convert(source: Source, reference: Reference, folder: Path) -> Graph:
    """Convert the torch model to its fp32 graph."""
    target = folder / "onnx" / FP32
    target.mkdir(parents=True)
    return source.family.to_onnx(reference.model.model, source.checkpoint, target)


def calibrate_temperature(source: Source, reference: Reference) -> tuple[Calibration | None, Processing]:
    """Fit a temperature for single-label classification; the processing applies it if it lowers the error."""
    processing = reference.processing
    if processing.problem_type != "single_label_classification" or not source.sample.targets:
        return None, processing
    targets = np.array([target[0] for target in source.sample.targets], np.int64)
    calibration = calibrate(reference.gate.torch_logits(), targets)
    if calibration and calibration.error_after < calibration.error_before:
        processing = processing.model_copy(update={"temperature": calibration.temperature})
    return calibration, processing


def validate_variants(
    builder: VariantBuilder, specs: Mapping[str, VariantSpec], named: Sequence[str] = ()
) -> tuple[list[Passed], list[Rejected]]:
    """Build and check every variant; returns those that passed and those that failed.

    One that replaces another is left out if that passed, unless it was `named`. Those of the student come last.
    """
    full = {name: spec for name, spec in specs.items() if not spec.student_of}
    passed, rejected = _validate(builder, full, named)
    students = {name: spec for name, spec in specs.items() if spec.student_of}
    if not named:
        students, unbuilt = screen_students(builder, students, passed)
        rejected += unbuilt
    if students and builder.context.student:
        builder.progress("looking for a student")
        builder.context.student.make()
    passed_students, rejected_students = _validate(builder, students, named)
    return passed + passed_students, rejected + rejected_students


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


def choose_executions(builder: VariantBuilder, passed: Sequence[Passed]) -> dict[str, Execution]:
    """Return the best of the ways in which each variant may run, with its best batch size, by its name.

    The batch sizes are chosen now, because an engine keeps the memory of the largest batch that it has run.
    """
    rows = timed_rows(builder)
    return {
        each.candidate.name: builder.steps.run(functools.partial(choose_execution, builder, each, rows))
        for each in passed
    }


def time_side_by_side(
    builder: VariantBuilder,
    reference: Reference,
    setups: tuple[TorchSetup, ...],
    executions: Mapping[str, Execution],
) -> tuple[dict[str, BenchmarkResult], dict[str, TorchSetup], Mapping[str, str]]:
    """Time torch's baselines and the variants in turns.

    Returns the results by name, the baselines with their setups, the reference first, and why others are refused.
    """
    builder.progress("comparing torch's baselines with the reference")
    baselines = honest_baselines(reference.gate, builder.family, reference.model, setups)
    rows, targets = timed_rows(builder), {}
    for name, model in baselines.models.items():
        target = BenchmarkTarget.of_torch(model, has_batch_choice=builder.family.has_batch_choice)
        targets[name] = target.with_limits(choose_limits(name, target, rows, builder.progress))
    release_memory()
    for name, execution in executions.items():
        runner, is_student = builder.open(execution), VARIANTS[name].student_of is not None
        target = BenchmarkTarget.of_runner(runner, execution.device, execution.precision, is_student=is_student)
        targets[name] = target.with_limits(runner.limits)
    release_memory()  # of compiling them
    results = benchmark(targets, rows, progress=builder.progress)
    return results, {name: model.setup for name, model in baselines.models.items()}, baselines.refused


def timed_rows(builder: VariantBuilder) -> list[EncodedInput]:
    """Return the rows that are timed."""
    gate = builder.gate
    rows = builder.family.timed_rows((gate.rows or gate.golden_rows)[:TIMED_ROWS], gate.expected)
    return enough_rows(rows, builder.requirements.device) if builder.family.has_batch_choice else rows


def record_variants(
    builder: VariantBuilder,
    labels: tuple[str, ...],
    passed: Sequence[Passed],
    results: Mapping[str, BenchmarkResult],
    executions: Mapping[str, Execution],
) -> tuple[list[Variant], list[Rejected]]:
    """Return the variants with their evidence, and those that do not open in a process of their own, as servers do.

    Raises EngineError if fp32 does not open.
    """
    variants, rejected = [], []
    for each in passed:
        name = each.candidate.name
        try:
            variants.append(record_variant(builder, labels, each, results[name], executions[name]))
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


def _check_depth(checkpoint: Checkpoint, config: ExportConfig, specs: Mapping[str, VariantSpec]) -> None:
    """Raise a TuneportError if pruned variants are selected and the model has not enough layers."""
    depth = getattr(checkpoint.config, "num_hidden_layers", None)
    is_pruned = any(spec.student_of for spec in specs.values())
    if depth and config.prune_layers and config.prune_layers >= depth and is_pruned:
        raise TuneportError(f"{config.prune_layers} of its {depth} layers cannot be dropped", "lower --prune-layers")
