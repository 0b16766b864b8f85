"""The checkpoint that an artifact was exported from, and the inputs that both are timed on."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tuneport.data.reader import MissingColumns
from tuneport.data.sample import Sample, read_sample
from tuneport.errors import CheckpointError, DataError
from tuneport.schema.artifact import Manifest
from tuneport.schema.torch_setup import TorchDevice
from tuneport.stages.export.baselines import reference_setup
from tuneport.stages.export.checkpoint import Checkpoint, open_checkpoint
from tuneport.stages.export.facts import Facts
from tuneport.stages.export.families import load_reference
from tuneport.stages.export.reference import TorchModel
from tuneport.stages.export.tasks.base import ExportTask
from tuneport.tasks import task_spec

from .config import BenchConfig, EndpointConfig

WORKLOAD_SPLITS = ("test", "validation")
"""Splits to time, the first that the data has."""


@dataclass(frozen=True)
class TorchBaseline:
    """The checkpoint that an artifact was exported from."""

    checkpoint: Checkpoint
    task: ExportTask

    def load_reference(self, device: TorchDevice) -> TorchModel:
        """Load the checkpoint as the reference on a device: fp32 without TF32."""
        return load_reference(self.checkpoint, self.task, reference_setup(device))


def open_baseline(manifest: Manifest, config: BenchConfig | EndpointConfig) -> TorchBaseline:
    """Open the checkpoint of `config`, by default the folder that the manifest records.

    Its own code runs only if `config` says so, whatever the manifest says. Raises CheckpointError if it is missing, or
    is not the checkpoint that the artifact was exported from.
    """
    provenance = manifest.provenance
    folder = config.checkpoint or Path(provenance.checkpoint)
    checkpoint = open_checkpoint(
        folder,
        task=manifest.task,
        max_length=manifest.processing.max_length,
        trust_remote_code=config.trust_remote_code,
    )
    if checkpoint.sha256 != provenance.checkpoint_sha256:
        raise CheckpointError(f"{folder} is not what {manifest.name} was exported from", "give it with --checkpoint")
    checkpoint = replace(checkpoint, facts=Facts.of(manifest.processing))
    return TorchBaseline(checkpoint, task_spec(manifest.task).task_class("export")(checkpoint))


def read_workload(manifest: Manifest, task: ExportTask, config: BenchConfig | EndpointConfig) -> Sample:
    """Read `config.num_inputs` inputs to time, of the test split if there is one.

    They come from `config.data`, with or without targets, by default from the data that the artifact was validated
    with. Raises DataError if there is no such data.
    """
    data = config.data or manifest.provenance.data
    if data is None:
        raise DataError(f"{manifest.name} was exported without data", "give some with --data")
    read = partial(
        read_sample,
        task,
        data=data,
        columns=config.columns,
        seed=0,
        splits=WORKLOAD_SPLITS,
        count=config.num_inputs,
        split_names=config.splits,
    )
    try:
        return read()
    except MissingColumns as error:
        if not error.are_among(task.target_columns):
            raise
        return read(unlabelled=True)
