"""The device that a run trains on, and the precision that follows from it and the settings."""

from dataclasses import dataclass
from typing import Literal

import torch

from tuneport.errors import EngineError
from tuneport.gpu import AMPERE, capability_pair
from tuneport.host import Host
from tuneport.schema.run import TrainingPrecision
from tuneport.schema.torch_setup import TorchDevice

from .config import FinetuneConfig
from .processes import processes

CUDA_WORKERS = 2
"""Processes that prepare batches for a GPU, where the settings name no number."""


@dataclass(frozen=True)
class Device:
    """What training runs on, as far as precision and the number of processes depend on it."""

    kind: TorchDevice
    name: str
    """Of the GPU, or of the processor."""
    has_bf16: bool
    """Whether it multiplies bfloat16 itself."""
    has_tf32: bool = False
    gpus: int = 0
    """GPUs that this process sees; it uses one of them."""

    @classmethod
    def here(cls) -> "Device":
        """Describe the device of this process: the GPU that torch uses, or the processor without one.

        Several processes choose alike, by the least of the GPUs.
        """
        if not torch.cuda.is_available():
            host = Host.here()
            return cls("cpu", host.cpu, host.has_bf16)
        gpus = torch.cuda.device_count()
        used = range(gpus) if processes().num_processes > 1 else [torch.cuda.current_device()]
        is_modern = min(torch.cuda.get_device_capability(index) for index in used) >= capability_pair(AMPERE)
        return cls("cuda", torch.cuda.get_device_name(), is_modern, is_modern, gpus)


@dataclass(frozen=True)
class Precision:
    """What a model is trained in."""

    name: TrainingPrecision
    """fp32, or the precision of autocast."""
    tf32: bool
    """Whether products of fp32 matrices round their factors to TF32, inside and outside of autocast."""


def choose_precision(config: FinetuneConfig, device: Device) -> Precision:
    """Return the precision that the settings ask for, and where they leave it open the fastest with bf16's range.

    fp16 is never chosen, because small gradients vanish in it. Raises EngineError for what the device does not have.
    """
    if config.fp16 and device.kind == "cpu":
        raise EngineError(f"fp16 needs a GPU, and this run would train on {device.name}", "leave fp16 out")
    if config.bf16 and device.kind == "cuda" and not device.has_bf16:
        raise EngineError(f"{device.name} has no bf16 instructions", "leave bf16 out, or set fp16 = true")
    if config.tf32 and not device.has_tf32:
        needed = "TF32 needs a GPU of compute capability 8.0 or more"
        raise EngineError(f"{needed}, and this run would train on {device.name}", "leave tf32 out")
    tf32 = device.has_tf32 if config.tf32 is None else config.tf32
    if config.fp16:
        return Precision("fp16", tf32)
    uses_bf16 = device.has_bf16 if config.bf16 is None else config.bf16
    return Precision("bf16" if uses_bf16 else "fp32", tf32)


def device_warnings(config: FinetuneConfig, device: Device, processes: int) -> tuple[str, ...]:
    """Say where a run leaves speed of its device unused."""
    warnings = []
    if device.kind == "cuda" and not device.has_bf16 and config.bf16 is None and not config.fp16:
        warnings.append(f"{device.name} has no bf16 instructions, so training is in fp32; fp16 = true is faster")
    if device.gpus > processes == 1:
        warnings.append(
            f"training uses one of {device.gpus} GPUs; all are used with "
            f"torchrun --nproc-per-node {device.gpus} -m tuneport finetune …"
        )
    return tuple(warnings)


def count_workers(config: FinetuneConfig, kind: Literal["cpu", "cuda"]) -> int:
    """Return the number of processes that prepare batches, 0 for the training process itself."""
    if config.dataloader_num_workers is not None:
        return config.dataloader_num_workers
    return CUDA_WORKERS if kind == "cuda" else 0
