"""Open a checkpoint and the data of the gate, and compute torch's outputs on it."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuneport.data.reader import MissingColumns
from tuneport.data.sample import Sample, read_sample
from tuneport.data.targets import TARGET_COLUMNS
from tuneport.errors import DataError, TuneportError
from tuneport.folders import write_lines
from tuneport.runtime.batch import RowOutputs
from tuneport.runtime.loading import open_task
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import GOLDEN, GoldenCase, Processing
from tuneport.schema.torch_setup import TorchSetup
from tuneport.tasks import task_spec

from .checkpoint import Checkpoint, open_checkpoint
from .config import MIN_UNLABELLED_ROWS, ExportConfig
from .facts import check_run_facts, find_facts
from .families import ExportFamily, export_family, load_reference
from .gate import Gate
from .golden import golden_cases
from .reference import TorchModel
from .statelessness import check_stateless
from .steps import HERE, Steps
from .tasks.base import ExportTask


@dataclass(frozen=True)
class Source:
    """What is exported, and the data that variants are checked with."""

    checkpoint: Checkpoint
    task: ExportTask
    family: ExportFamily
    sample: Sample


@dataclass(frozen=True)
class Reference:
    """The torch model, and a gate that holds its outputs."""

    load: Callable[[], TorchModel]
    """Load the torch model; each process that needs it does, the first time that it does."""
    runtime_task: RuntimeTask
    processing: Processing
    gate: Gate

    @property
    def model(self) -> TorchModel:
        """Return the torch model."""
        return self.load()


def open_source(config: ExportConfig) -> Source:
    """Open the checkpoint and read the validation rows for the gate; a DataError for too few of unlabelled data."""
    checkpoint = open_checkpoint(
        config.checkpoint,
        task=config.task,
        max_length=config.max_length,
        trust_remote_code=config.trust_remote_code,
    )
    spec = task_spec(checkpoint.task)
    if checkpoint.run:
        check_run_facts(checkpoint.run, config)
    else:
        with _naming_unlabelled(TARGET_COLUMNS):
            facts = find_facts(config, checkpoint.task, checkpoint.labels, checkpoint.facts.problem_type)
        checkpoint = replace(checkpoint, facts=facts)
    task = spec.task_class("export")(checkpoint)
    if config.unlabelled and not task.target_columns:
        raise TuneportError(f"{checkpoint.task} has no columns of targets to leave unread", "leave out --unlabelled")
    count = min(config.max_gate_rows, spec.max_gate_rows or config.max_gate_rows)
    with _naming_unlabelled(task.target_columns):
        sample = read_split(config, checkpoint, task, "validation", count)
    if config.unlabelled and len(sample.inputs) < MIN_UNLABELLED_ROWS:
        where = "" if sample.split == "all" else f" in its {sample.split} split"
        problem = f"{config.data} has {len(sample.inputs)} different inputs{where} to compare with torch's predictions"
        raise DataError(problem, f"give {MIN_UNLABELLED_ROWS} or more, or labelled ones without --unlabelled")
    return Source(checkpoint, task, export_family(checkpoint.task), sample)


@contextlib.contextmanager
def _naming_unlabelled(targets: Sequence[str]) -> Iterator[None]:
    """Name --unlabelled in the error for data that lacks nothing but columns of targets."""
    try:
        yield
    except MissingColumns as error:
        if not error.are_among(targets):
            raise
        raise DataError(error.problem, f"{error.remedy}, or judge variants without them: --unlabelled") from error


def compute_reference(source: Source, folder: Path, setup: TorchSetup, steps: Steps = HERE) -> Reference:
    """Write the tokenizer, compute torch's outputs on golden cases and data, and write the golden cases."""
    checkpoint, task, sample = source.checkpoint, source.task, source.sample
    processing = task.processing()
    source.family.write_tokenizer(checkpoint, folder)
    runtime_task = open_task(folder, checkpoint.task, checkpoint.labels, processing)

    @functools.cache
    def load() -> TorchModel:
        model = load_reference(checkpoint, task, setup)
        model.runtime_task = runtime_task
        return model

    def compute() -> tuple[list[GoldenCase], list[list[RowOutputs]]]:
        golden = golden_cases(checkpoint, task, runtime_task, load(), sample.inputs)
        expected = load().outputs(runtime_task, [runtime_task.parse_input(each) for each in sample.inputs])
        if source.family.is_checked_fresh:
            check_stateless(checkpoint, runtime_task, load(), golden)
        return golden, expected

    golden, expected = steps.run(compute)
    write_lines(folder / GOLDEN, (case.model_dump() for case in golden))
    return Reference(load, runtime_task, processing, Gate(task, runtime_task, golden, sample, expected))


def read_split(config: ExportConfig, checkpoint: Checkpoint, task: ExportTask, split: str, count: int) -> Sample:
    """Read up to `count` rows of a split of the user's data, by default of the data that the run was trained on."""
    return read_sample(
        task,
        data=config.data or (checkpoint.run.data if checkpoint.run else None),
        columns=config.columns,
        seed=config.seed,
        splits=(split,),
        count=count,
        split_names=config.splits,
        unlabelled=config.unlabelled,
    )
