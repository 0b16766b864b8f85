"""The export, top to bottom: checkpoint → ONNX → variants → gate → timing → choice → artifact."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from export.calibration import calibrate
from export.card import write_card
from export.checkpoint import Checkpoint, open_checkpoint
from export.choose import Objective, choose_default
from export.device import check_device
from export.files import TuneportError, check_out, git_commit, new_folder, write_lines
from export.frontier import draw
from export.gate import Gate
from export.golden import golden_cases
from export.machine import Frozen, Machine
from export.manifest import (
    GOLDEN,
    MANIFEST,
    SCHEMA_VERSION,
    Calibration,
    Device,
    File,
    Manifest,
    Name,
    Processing,
    Provenance,
)
from export.manifest import Task as TaskName
from export.prune import prune
from export.quantize import Ranges
from export.reference import load_reference
from export.sample import Sample, has_pairs, read_sample
from export.tasks import Task, task_class
from export.to_onnx import signature_of, to_onnx
from export.variants import FEWEST_CALIBRATION_ROWS, Kind, Material, choose_recipes
from export.workshop import Terms, Workshop
from serve.model import open_task
from serve.plan import Budget, plan
from serve.tasks import Task as ServingTask
from serve.tokenizer import Ids, Row, pad

LIBRARIES = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "tokenizers")
FP32 = "fp32"
MOST_LESSONS = 20_000
"""Rows of train that teach a pruned model."""
InstructionSet = Literal["avx2", "vnni"]
Progress = Callable[[str], object]


class ExportConfig(Frozen):
    """One export."""

    checkpoint: Path
    """A run folder of `tuneport finetune`, or a folder that transformers saved."""
    task: TaskName | None = None
    """Unset: the run's, or what the checkpoint's architecture says."""
    name: Name = "model"
    data: str | None = None
    """Labelled data for the gate; unset: the validation split that the run was trained with."""
    columns: dict[str, str] = Field(default_factory=dict)
    device: Device = "cpu"
    variants: tuple[str, ...] = ()
    """Which to build; unset: all that can pay on the device."""
    objective: Objective = "throughput"
    """What the default variant is chosen by."""
    max_drop: float = Field(default=0.01, ge=0, le=1)
    """What a variant may lose of the task's metric against torch, 0.01 being one point."""
    max_length: int | None = Field(default=None, ge=8)
    max_texts: int = Field(default=1000, ge=1)
    """Validation rows for the gate, the first ones."""
    calibration_rows: int = Field(default=128, ge=FEWEST_CALIBRATION_ROWS)
    """Validation rows that static quantization sees."""
    instruction_set: InstructionSet | None = None
    """The processor that int8 variants are for, by its int8 instructions; unset: this machine's."""
    calibration: Ranges = "minmax"
    """How static quantization reads ranges off them."""
    smooth_quant: bool = False
    """Whether static quantization moves outliers of activations into the weights first."""
    drop_layers: int = Field(default=2, ge=1)
    """Layers that pruned variants do without."""
    recovery_steps: int = Field(default=300, ge=0)
    """Batches that teach them the full model's outputs."""
    search_minutes: float = Field(default=2.0, ge=0)
    """For finding what a quantized variant that fails must keep in fp32; 0: it is left out at once."""
    seed: int = 42
    trust_remote_code: bool = False


@dataclass(frozen=True)
class _Subject:
    """What is exported."""

    checkpoint: Checkpoint
    task: Task
    sample: Sample


def export(
    config: ExportConfig, out: Path, *, overwrite: bool = False, progress: Progress = lambda _: None
) -> Manifest:
    """Turn a checkpoint into an artifact of the variants that pass their gate; returns its manifest.

    Nothing is left at `out` unless fp32 passes. Raises TuneportError for a checkpoint, data or settings that
    cannot be used, GateError if fp32 does not answer as torch does. `progress` is told each step.
    """
    check_out(out, marker=MANIFEST, overwrite=overwrite)
    choose_recipes(config.variants, config.device)  # refuses what is impossible on this machine before any work
    check_device(config.device)
    progress("reading the checkpoint and the data")
    subject = _read(config)
    kind = _kind(subject.checkpoint)
    recipes = choose_recipes(config.variants, config.device, rows=len(subject.sample.inputs), kind=kind)
    _check_depth(subject.checkpoint, config, recipes)
    with new_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        workshop = _set_up(config, folder, subject, progress)
        calibration = _calibrate(workshop, subject)
        for name, recipe in recipes.items():
            progress(f"building and judging {name}")
            workshop.admit(name, recipe)
        variants, torchs = workshop.time()
        default, because = choose_default(variants, config.objective)
        inputs, outputs = signature_of(workshop.material.fp32)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=config.name,
            task=subject.checkpoint.task,
            labels=subject.checkpoint.labels,
            processing=workshop.processing,
            inputs=inputs,
            outputs=outputs,
            variants=tuple(variants),
            rejected=tuple(workshop.rejected),
            default_variant=default,
            default_because=because,
            machine=Machine.here(),
            torch_texts_per_s=torchs.texts_per_s,
            calibration=calibration,
            files=_shared_files(folder),
            provenance=_provenance(subject, config),
        )
        manifest = manifest.model_copy(update={"files": (*manifest.files, draw(folder, manifest))})
        manifest = manifest.model_copy(update={"files": (*manifest.files, write_card(folder, manifest))})
        manifest.save(folder)
    return manifest


def _read(config: ExportConfig) -> _Subject:
    checkpoint = open_checkpoint(
        config.checkpoint,
        task=config.task,
        max_length=config.max_length,
        trust_remote_code=config.trust_remote_code,
    )
    is_foreign = checkpoint.run is None and checkpoint.task in ("text-classification", "regression")
    if is_foreign and has_pairs(config.data, config.columns, config.seed):
        checkpoint = replace(checkpoint, pairs_in_data=True)
    task = task_class(checkpoint.task)(checkpoint)
    count = min(config.max_texts, getattr(task, "most_rows", config.max_texts))
    return _Subject(checkpoint, task, _sample(config, checkpoint, task, "validation", count))


def _sample(config: ExportConfig, checkpoint: Checkpoint, task: Task, split: str, count: int) -> Sample:
    return read_sample(
        task,
        data=config.data or (checkpoint.run.data if checkpoint.run else None),
        columns=config.columns,
        seed=config.seed,
        splits=(split,),
        count=count,
    )


def _set_up(config: ExportConfig, folder: Path, subject: _Subject, progress: Progress) -> Workshop:
    """Ask torch for its answers and convert; what follows works on the outcome."""
    progress("asking torch for the reference answers")
    checkpoint, task, sample = subject.checkpoint, subject.task, subject.sample
    processing = task.processing()
    checkpoint.write_tokenizer(folder)
    serving = open_task(folder, checkpoint.task, checkpoint.labels, processing)
    reference = load_reference(checkpoint, task)
    golden = golden_cases(checkpoint, task, serving, reference, sample.inputs)
    expected = reference.outputs(serving, [serving.read(each) for each in sample.inputs])
    write_lines(folder / GOLDEN, (case.model_dump() for case in golden))
    gate = Gate(task, serving, golden, sample, expected)
    progress("exporting through Optimum")
    fp32 = folder / "onnx" / FP32
    fp32.mkdir(parents=True)
    files = to_onnx(reference.model, checkpoint, fp32)
    terms = Terms(config.device, config.objective, config.max_drop, config.search_minutes)
    material = Material(
        fp32=fp32 / files[0],
        files=tuple(files),
        feeds=[] if checkpoint.sizes else _feeds(gate.rows, processing, config),
        ranges=config.calibration,
        smooth=config.smooth_quant,
        model_type=reference.model.config.model_type,
        heads=getattr(reference.model.config, "num_attention_heads", 0) or 0,
        hidden=getattr(reference.model.config, "hidden_size", 0) or 0,
        kind=_kind(checkpoint),
        reduce_range=reduces_range(config, Machine.here()),
        prune=_pruner(config, subject, serving, reference, progress),
    )
    return Workshop(
        folder=folder,
        task=checkpoint.task,
        labels=checkpoint.labels,
        terms=terms,
        serving=serving,
        processing=processing,
        reference=reference,
        gate=gate,
        material=material,
        progress=progress,
    )


def reduces_range(config: ExportConfig, here: Machine) -> bool:
    """Tell whether int8 weights get 7 bits: on a processor without VNNI products of full ranges saturate."""
    if config.device != "cpu":
        return False
    return here.int8_saturates if config.instruction_set is None else config.instruction_set == "avx2"


def _check_depth(checkpoint: Checkpoint, config: ExportConfig, recipes: Iterable[str]) -> None:
    """Raise a TuneportError if pruned variants were asked for and too few layers would be left."""
    depth = getattr(checkpoint.config, "num_hidden_layers", None)
    if depth and config.drop_layers >= depth and any(name.startswith("pruned") for name in recipes):
        raise TuneportError(f"{config.drop_layers} of its {depth} layers cannot be dropped", "lower --drop-layers")


def _pruner(
    config: ExportConfig, subject: _Subject, serving: ServingTask, reference: Any, progress: Progress
) -> Callable[[Path], list[str]] | None:
    """Return what makes the pruned model when it is asked for; train's inputs teach it, never those of the gate."""
    if subject.checkpoint.sizes or not subject.sample.inputs:
        return None

    def build(folder: Path) -> list[str]:
        inputs = _sample(config, subject.checkpoint, subject.task, "train", MOST_LESSONS).inputs
        given = [serving.read(each) for each in inputs]
        lessons = {"drop": config.drop_layers, "steps": config.recovery_steps, "seed": config.seed}
        return to_onnx(prune(reference, given, **lessons, progress=progress), subject.checkpoint, folder)

    return build


def _kind(checkpoint: Checkpoint) -> Kind:
    return "writer" if checkpoint.sizes else "encoder"


def _feeds(rows: Sequence[Row], processing: Processing, config: ExportConfig) -> list[dict[str, Ids]]:
    """Batch rows for calibration, like lengths together: ranges must not be those of padding."""
    count = min(config.calibration_rows, len(rows))
    chosen = [rows[round(i)] for i in np.linspace(0, len(rows) - 1, count)]
    if config.calibration != "minmax":  # onnxruntime's histograms want one shape
        longest = max(map(len, chosen), default=0)
        return [pad([row], processing, longest) for row in chosen]
    batches = plan([len(row) for row in chosen], Budget())
    return [pad([chosen[i] for i in batch], processing) for batch in batches]


def _calibrate(workshop: Workshop, subject: _Subject) -> Calibration | None:
    """Fit a temperature where one label is chosen, and let serving apply it if it helps."""
    if workshop.processing.problem_type != "single_label_classification":
        return None
    logits, targets = workshop.gate.torch_logits(), [target[0] for target in subject.sample.targets]
    calibration = calibrate(logits, np.array(targets, np.int64)) if targets else None
    if calibration and calibration.error_after < calibration.error_before:
        workshop.processing = workshop.processing.model_copy(update={"temperature": calibration.temperature})
    return calibration


def _shared_files(folder: Path) -> tuple[File, ...]:
    """Record what is there beside the variants: tokenizer and golden cases."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return tuple(File.of(folder, str(path)) for path in paths if path.parts[0] != "onnx")


def _provenance(subject: _Subject, config: ExportConfig) -> Provenance:
    checkpoint = subject.checkpoint
    run = checkpoint.run
    settings: dict[str, Any] = {"export": config.model_dump(mode="json", exclude={"checkpoint"})}
    runtime = "onnxruntime" if config.device == "cpu" else "onnxruntime-gpu"
    return Provenance(
        base_model=run.config["model"] if run else None,
        checkpoint=str(config.checkpoint.resolve()),
        checkpoint_sha256=checkpoint.hash(),
        data=subject.sample.source,
        config={**(run.config if run else {}), **settings},
        seed=run.seed if run else None,
        git_commit=git_commit(Path(__file__).parent),
        versions={name: version(name) for name in (*LIBRARIES, runtime)},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
