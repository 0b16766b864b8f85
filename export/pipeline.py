"""Export a checkpoint: torch's outputs → ONNX → variants → gate → benchmark → selection → artifact."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tuneport.errors import EngineError, TuneportError
from tuneport.folders import check_out, new_folder
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

from .alternatives import choose_execution
from .applicable import select_variants
from .artifact import write_artifact
from .baselines import baseline_setups, honest_baselines, reference_setup
from .benchmark import BenchmarkResult, BenchmarkTarget, benchmark, enough_rows
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
from .reference import TorchModel
from .screening import screen_students
from .source import Reference, Source, compute_reference, open_source
from .torch_device import TORCH_DEVICES
from .variants import VariantSpec

TIMED_ROWS = 200
Progress = Callable[[str], object]


def export(
    config: ExportConfig, out: Path, *, overwrite: bool = False, progress: Progress = lambda _: None
) -> Manifest:
    """Export a checkpoint to an artifact with the variants that pass their gate; returns its manifest.

    Nothing is written to `out` unless fp32 passes. Raises TuneportError for a checkpoint, data or settings that
    cannot be used, and GateError if the outputs of fp32 differ from torch's. `progress` gets a line for each step.
    """
    check_out(out, marker=MANIFEST, overwrite=overwrite)
    select_variants(config.variants, config.device)  # fail on unknown variants before any work
    check_device(config.device)
    progress("reading the checkpoint and the data")
    source = open_source(config)
    specs = select_variants(config.variants, config.device, rows=len(source.sample.inputs), family=source.family.name)
    _check_depth(source.checkpoint, config, specs)
    with new_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        progress("computing torch's outputs")
        torch_device = TORCH_DEVICES[config.device]
        reference = compute_reference(source, folder, reference_setup(torch_device))
        progress("converting to ONNX")
        graph = convert(source, reference, folder)
        release_memory()
        calibration, processing = calibrate_temperature(source, reference)
        builder = VariantBuilder(
            folder=folder,
            task_name=source.checkpoint.task,
            runtime_task=reference.runtime_task,
            processing=processing,
            family=source.family,
            requirements=Requirements(config.device, config.objective, config.max_drop, config.mixed_precision_minutes),
            gate=reference.gate,
            context=build_context(config, source, reference, graph, progress),
            progress=progress,
        )
        passed, rejected = validate_variants(builder, specs, config.variants)
        progress("comparing torch's baselines with the reference")
        setups = baseline_setups(torch_device)
        baselines = honest_baselines(reference.gate, source.family, reference.model, setups)
        results, executions = benchmark_variants(builder, baselines.models, passed)
        variants, unopened = record_variants(builder, source.checkpoint.labels, passed, results, executions)
        return write_artifact(
            folder,
            config.name or artifact_name(out),
            config,
            source,
            processing=processing,
            signature=source.family.signature(graph),
            variants=variants,
            results=results,
            rejected=[*rejected, *unopened],
            torch=reference.model.setup,
            baselines=[
                BaselineTiming(
                    setup=model.setup, timing=results[name].timing, max_batch_tokens=results[name].max_batch_tokens
                )
                for name, model in baselines.models.items()
            ],
            refused_baselines=baselines.refused,
            calibration=calibration,
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


def benchmark_variants(
    builder: VariantBuilder, baselines: Mapping[str, TorchModel], passed: Sequence[Passed]
) -> tuple[dict[str, BenchmarkResult], dict[str, Execution]]:
    """Time torch and the variants side by side, each variant in the best of the ways in which it may run.

    Returns the results by name, and how each variant runs.
    """
    gate, has_batch_choice = builder.gate, builder.family.has_batch_choice
    rows = builder.family.timed_rows((gate.rows or gate.golden_rows)[:TIMED_ROWS], gate.expected)
    if has_batch_choice:
        rows = enough_rows(rows, builder.requirements.device)
    targets = {
        name: BenchmarkTarget.of_torch(model, has_batch_choice=has_batch_choice) for name, model in baselines.items()
    }
    executions = {each.candidate.name: choose_execution(builder, each, rows) for each in passed}
    release_memory()
    for name, execution in executions.items():
        targets[name] = BenchmarkTarget.of_runner(builder.open(execution), execution.device, execution.precision)
    return benchmark(targets, rows, progress=builder.progress), executions


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
    if not execution.single_row_batches:
        execution = execution.model_copy(update={"max_batch_tokens": result.max_batch_tokens})
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
