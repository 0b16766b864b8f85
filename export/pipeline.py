"""Export a checkpoint: torch's outputs → ONNX → variants → gate → benchmark → selection → artifact."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tuneport.errors import TuneportError
from tuneport.folders import check_out, new_folder
from tuneport.gpu import use_first_gpu
from tuneport.schema.artifact import MANIFEST, Calibration, Manifest, Processing

from .applicable import select_variants
from .artifact import write_artifact
from .baselines import baseline_setups, reference_setup
from .build import FP32, Requirements, VariantBuilder
from .build_context import build_context
from .calibration import calibrate
from .checkpoint import Checkpoint
from .config import ExportConfig, artifact_name
from .device import check_device
from .graph import Graph
from .groups import time_in_groups
from .memory import release_memory
from .record import record_variants
from .source import Reference, Source, compute_reference, open_source
from .steps import Steps
from .torch_device import TORCH_DEVICES
from .validation import validate_variants
from .variants import VariantSpec

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
    if config.device != "cpu":
        use_first_gpu()  # the one that the manifest describes, for torch and ONNX Runtime alike
    select_variants(config.variants, config.device)  # fail on unknown variants before any work
    check_device(config.device)
    progress("reading the checkpoint and the data")
    source = open_source(config)
    specs = select_variants(
        config.variants,
        config.device,
        rows=len(source.sample.inputs),
        unlabelled=config.unlabelled,
        family=source.family.name,
    )
    _check_depth(source.checkpoint, config, specs)
    with new_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        progress("computing torch's outputs")
        reference = compute_reference(source, folder, reference_setup(TORCH_DEVICES[config.device]), steps)
        calibration, processing = calibrate_temperature(source, reference)
        builder = prepare_builder(config, source, reference, processing, folder, steps)
        validated = validate_variants(builder, specs, config.variants)
        setups = baseline_setups(TORCH_DEVICES[config.device])
        timings = time_in_groups(builder, reference, setups, validated.chosen)
        variants, unopened = record_variants(
            builder, source.checkpoint.labels, validated.passed, timings.results, validated.chosen
        )
        return write_artifact(
            folder,
            config.name or artifact_name(out),
            config,
            source,
            processing=processing,
            signature=source.family.signature(builder.context.fp32),
            variants=variants,
            timings=timings,
            rejected=[*validated.rejected, *unopened],
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
        requirements=Requirements.of(config),
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


def _check_depth(checkpoint: Checkpoint, config: ExportConfig, specs: Mapping[str, VariantSpec]) -> None:
    """Raise a TuneportError if pruned variants are selected and the model has not enough layers."""
    depth = getattr(checkpoint.config, "num_hidden_layers", None)
    is_pruned = any(spec.student_of for spec in specs.values())
    if depth and config.prune_layers and config.prune_layers >= depth and is_pruned:
        raise TuneportError(f"{config.prune_layers} of its {depth} layers cannot be dropped", "lower --prune-layers")
