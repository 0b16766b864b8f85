"""What the artifact has to beat: the checkpoint in torch, eager, as its author would run it."""

from pathlib import Path

import torch

from export.checkpoint import Checkpoint, open_checkpoint
from export.files import CheckpointError
from export.machine import Machine, usable_cores
from export.manifest import Manifest
from export.reference import TorchModel


def torch_baselines(manifest: Manifest, checkpoint: Path | None) -> dict[str, TorchModel]:
    """Load the checkpoint in fp32, and in bf16 where the processor multiplies it.

    Raises CheckpointError if it is not the one that the artifact was exported from.
    """
    opened = _open(manifest, checkpoint or Path(manifest.provenance.checkpoint))
    torch.set_num_threads(usable_cores())
    baselines = {"torch fp32": TorchModel(opened)}
    if Machine.here().has_bf16:
        baselines["torch bf16"] = TorchModel(opened, torch.bfloat16)
    return baselines


def _open(manifest: Manifest, folder: Path) -> Checkpoint:
    made = manifest.provenance
    trust = bool(made.config["export"]["trust_remote_code"])
    opened = open_checkpoint(folder, max_length=manifest.processing.max_length, trust_remote_code=trust)
    if opened.hash() != made.checkpoint_sha256:
        raise CheckpointError(f"{folder} is not what {manifest.name} was exported from", "give it with --checkpoint")
    return opened
