"""Open a checkpoint and its labelled data, and compute torch's outputs on them."""

from dataclasses import dataclass, replace
from pathlib import Path

from tuneport.data.sample import Sample, has_pairs, read_sample
from tuneport.folders import write_lines
from tuneport.runtime.loading import open_task
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import GOLDEN, Processing
from tuneport.schema.torch_setup import TorchSetup
from tuneport.tasks import task_spec

from .checkpoint import Checkpoint, open_checkpoint
from .config import ExportConfig
from .families import ExportFamily, export_family, load_reference
from .gate import Gate
from .golden import golden_cases
from .reference import TorchModel
from .tasks.base import ExportTask


@dataclass(frozen=True)
class Source:
    """What is exported, and the labelled data that variants are checked with."""

    checkpoint: Checkpoint
    task: ExportTask
    family: ExportFamily
    sample: Sample


@dataclass(frozen=True)
class Reference:
    """The torch model, and a gate that holds its outputs."""

    model: TorchModel
    runtime_task: RuntimeTask
    processing: Processing
    gate: Gate


def open_source(config: ExportConfig) -> Source:
    """Open the checkpoint and read the validation rows for the gate."""
    checkpoint = open_checkpoint(
        config.checkpoint,
        task=config.task,
        max_length=config.max_length,
        trust_remote_code=config.trust_remote_code,
    )
    spec = task_spec(checkpoint.task)
    may_be_pairs = checkpoint.run is None and spec.accepts_pairs
    if may_be_pairs and has_pairs(config.data, config.columns, config.seed):
        checkpoint = replace(checkpoint, pairs_in_data=True)
    task = spec.task_class("export")(checkpoint)
    count = min(config.max_gate_rows, spec.max_gate_rows or config.max_gate_rows)
    sample = read_split(config, checkpoint, task, "validation", count)
    return Source(checkpoint, task, export_family(checkpoint.task), sample)


def compute_reference(source: Source, folder: Path, setup: TorchSetup) -> Reference:
    """Write the tokenizer, compute torch's outputs on golden cases and data, and write the golden cases."""
    checkpoint, task, sample = source.checkpoint, source.task, source.sample
    processing = task.processing()
    source.family.write_tokenizer(checkpoint, folder)
    runtime_task = open_task(folder, checkpoint.task, checkpoint.labels, processing)
    model = load_reference(checkpoint, task, setup)
    golden = golden_cases(checkpoint, task, runtime_task, model, sample.inputs)
    expected = model.outputs(runtime_task, [runtime_task.parse_input(each) for each in sample.inputs])
    write_lines(folder / GOLDEN, (case.model_dump() for case in golden))
    return Reference(model, runtime_task, processing, Gate(task, runtime_task, golden, sample, expected))


def read_split(config: ExportConfig, checkpoint: Checkpoint, task: ExportTask, split: str, count: int) -> Sample:
    """Read up to `count` rows of a split of the user's data, by default of the data that the run was trained on."""
    return read_sample(
        task,
        data=config.data or (checkpoint.run.data if checkpoint.run else None),
        columns=config.columns,
        seed=config.seed,
        splits=(split,),
        count=count,
    )
