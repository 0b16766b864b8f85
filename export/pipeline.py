"""Export a checkpoint: torch's outputs → ONNX → variants → gate → benchmark → selection → artifact."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tuneport.errors import EngineError, TuneportError
from tuneport.folders import check_out, new_folder
from tuneport.host import usable_cores
from tuneport.schema.artifact import MANIFEST, Calibration, Evidence, Manifest, Processing, Rejected, Variant
from tuneport.schema.torch_setup import REFERENCE

from .artifact import write_artifact
from .baselines import baseline_setups, honest_baselines, reference_setup
from .benchmark import BenchmarkResult, BenchmarkTarget, benchmark
from .build import FP32, Passed, Requirements, VariantBuilder
from .build_context import build_context
from .calibration import calibrate
from .checkpoint import Checkpoint
from .config import ExportConfig, artifact_name
from .device import check_device
from .footprint import measure_footprint
from .gate import Measurement
from .graph import Graph
from .passes.distill import distilled
from .reference import TorchModel
from .source import Reference, Source, compute_reference, open_source
from .torch_device import TORCH_DEVICES
from .variants import VariantSpec, select_variants

TIMED_ROWS = 200
MIN_STREAMS_GAIN = 1.05
"""Factor by which several streams must raise throughput, because they raise the latency of each batch."""
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
        passed, rejected = validate_variants(builder, specs)
        progress("comparing torch's baselines with the reference")
        setups = baseline_setups(torch_device)
        baselines = honest_baselines(reference.gate, source.family, reference.model, setups)
        results = benchmark_variants(builder, baselines.models, passed)
        variants, unopened = record_variants(builder, source.checkpoint.labels, passed, results)
        return write_artifact(
            folder,
            config.name or artifact_name(out),
            config,
            source,
            processing=processing,
            signature=source.family.signature(graph),
            variants=variants,
            rejected=[*rejected, *unopened],
            torch=reference.model.setup,
            torch_timing=results[REFERENCE].timing,
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


def validate_variants(builder: VariantBuilder, specs: Mapping[str, VariantSpec]) -> tuple[list[Passed], list[Rejected]]:
    """Build and check every variant; returns those that passed and those that failed."""
    passed, rejected = [], []
    for name, spec in specs.items():
        builder.progress(f"building and checking {name}")
        outcome = builder.build_and_validate(name, spec)
        if isinstance(outcome, Passed):
            passed.append(outcome)
        else:
            rejected.append(outcome)
    return passed, rejected


def benchmark_variants(
    builder: VariantBuilder, baselines: Mapping[str, TorchModel], passed: Sequence[Passed]
) -> dict[str, BenchmarkResult]:
    """Time torch and the variants, each variant with one stream and, if that may help, with one stream per core."""
    device, gate = builder.requirements.device, builder.gate
    rows = builder.family.timed_rows((gate.rows or gate.golden_rows)[:TIMED_ROWS], gate.expected)
    has_batch_choice = builder.family.has_batch_choice
    targets = {
        name: BenchmarkTarget.of_torch(model, has_batch_choice=has_batch_choice) for name, model in baselines.items()
    }
    streams = _candidate_streams(builder.requirements)
    for each in passed:
        name, execution = each.candidate.name, each.candidate.execution
        targets[name] = BenchmarkTarget.of_runner(each.runner, device, execution.precision)
        if streams > 1 and each.runner.supports_streams:
            runner = builder.open(execution.model_copy(update={"streams": streams}))
            targets[_with_streams(name)] = BenchmarkTarget.of_runner(runner, device, execution.precision)
    return benchmark(targets, rows, progress=builder.progress)


def record_variants(
    builder: VariantBuilder, labels: tuple[str, ...], passed: Sequence[Passed], results: Mapping[str, BenchmarkResult]
) -> tuple[list[Variant], list[Rejected]]:
    """Return the variants with their evidence, and those that do not open in a process of their own, as servers do.

    Raises EngineError if fp32 does not open.
    """
    variants, rejected = [], []
    for each in passed:
        try:
            variants.append(record_variant(builder, labels, each, results))
        except EngineError as error:
            if each.candidate.name == FP32:
                raise
            rejected.append(builder.reject(each.candidate.name, error, Measurement(each.parity, each.metric)))
    return variants, rejected


def record_variant(
    builder: VariantBuilder, labels: tuple[str, ...], passed: Passed, results: Mapping[str, BenchmarkResult]
) -> Variant:
    """Choose one stream or several, measure memory and cold start, and return the variant with its evidence."""
    name, execution = passed.candidate.name, passed.candidate.execution
    builder.progress(f"measuring memory and cold start of {name}")
    result, streams = results[name], 1
    with_streams = results.get(_with_streams(name), result)
    if with_streams.timing.texts_per_s > MIN_STREAMS_GAIN * result.timing.texts_per_s:
        result, streams = with_streams, _candidate_streams(builder.requirements)
    execution = execution.model_copy(update={"streams": streams})
    if not execution.single_row_batches:
        execution = execution.model_copy(update={"max_batch_tokens": result.max_batch_tokens})
    inputs = [case.input for case in builder.gate.golden]
    footprint = measure_footprint(builder.folder, builder.task_name, labels, builder.processing, execution, inputs)
    evidence = Evidence(
        parity=passed.parity,
        metric=passed.metric,
        tolerance=passed.tolerance,
        fp32_parts=passed.fp32_parts,
        timing=result.timing,
        footprint=footprint,
    )
    return Variant(name=name, execution=execution, evidence=evidence)


def _check_depth(checkpoint: Checkpoint, config: ExportConfig, specs: Mapping[str, VariantSpec]) -> None:
    """Raise a TuneportError if pruned variants are selected and the model has not enough layers."""
    depth = getattr(checkpoint.config, "num_hidden_layers", None)
    is_pruned = any(distilled in passes for spec in specs.values() for passes in spec.passes.values())
    if depth and config.prune_layers >= depth and is_pruned:
        raise TuneportError(f"{config.prune_layers} of its {depth} layers cannot be dropped", "lower --prune-layers")


def _candidate_streams(requirements: Requirements) -> int:
    """Return the number of streams to try beside one: the cores, if the objective is throughput on a CPU."""
    wants_throughput = requirements.device == "cpu" and requirements.objective == "throughput"
    return usable_cores() if wants_throughput else 1


def _with_streams(name: str) -> str:
    return f"{name}, a stream a core"
