"""What the artifact has to beat: the checkpoint in torch, eager, as its author would run it."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from export.checkpoint import Checkpoint, open_checkpoint
from export.files import CheckpointError
from export.machine import Machine, usable_cores
from export.manifest import Manifest
from export.reference import TorchModel, load_reference
from export.tasks import Task, task_class


@dataclass(frozen=True)
class Origin:
    """What an artifact was exported from."""

    checkpoint: Checkpoint
    task: Task

    def torch_models(self) -> dict[str, TorchModel]:
        """Load the checkpoint in fp32, and in bf16 where the processor multiplies it."""
        torch.set_num_threads(usable_cores())
        models = {"torch fp32": load_reference(self.checkpoint, self.task)}
        if Machine.here().has_bf16:
            models["torch bf16"] = load_reference(self.checkpoint, self.task, torch.bfloat16)
        return models


def find_origin(manifest: Manifest, folder: Path | None) -> Origin:
    """Open the checkpoint, where it was unless `folder` says otherwise.

    Raises CheckpointError if it is not the one that the artifact was exported from.
    """
    made = manifest.provenance
    folder = folder or Path(made.checkpoint)
    checkpoint = open_checkpoint(
        folder,
        task=manifest.task,
        max_length=manifest.processing.max_length,
        trust_remote_code=bool(made.config["export"]["trust_remote_code"]),
    )
    if checkpoint.hash() != made.checkpoint_sha256:
        raise CheckpointError(f"{folder} is not what {manifest.name} was exported from", "give it with --checkpoint")
    checkpoint = replace(checkpoint, pairs_in_data=manifest.processing.accepts_pairs)
    return Origin(checkpoint, task_class(manifest.task)(checkpoint))
