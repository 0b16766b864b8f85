"""Run torch on the device that variants are built for."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from tuneport.errors import DeviceOutOfMemory, EngineError
from tuneport.modeling.attention import cudnn_attention
from tuneport.runtime.device_errors import classify
from tuneport.schema.artifact import Device
from tuneport.schema.torch_setup import TorchDevice, TorchSetup

TORCH_DEVICES: dict[Device, TorchDevice] = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}
"""Device of a variant → the device on which torch is its reference and its baseline."""


class TorchOutOfMemory(EngineError):
    """Torch's device has too little memory for what it was to run."""

    def __init__(self, setup: TorchSetup, what: str, rows: int = 1) -> None:
        """`what` did not fit, and had so many `rows`; fewer may fit."""
        super().__init__(
            f"{setup.name} runs out of memory on {what}",
            f"free memory on the device ({setup.device}), lower --max-length, or choose fewer --variants",
        )
        self.name = setup.name
        self.reason = f"it runs out of memory on {what}"
        self.rows = rows


@contextlib.contextmanager
def as_out_of_memory(setup: TorchSetup, what: str, rows: int = 1) -> Iterator[None]:
    """Turn what torch, or a runner, raises for want of the device's memory into TorchOutOfMemory."""
    try:
        yield
    except TorchOutOfMemory:
        raise
    except Exception as error:
        if isinstance(error, DeviceOutOfMemory) or classify(error) == "memory":
            raise TorchOutOfMemory(setup, what, rows) from error
        raise


def check_torch(device: TorchDevice) -> None:
    """Raise EngineError, with the remedy, if this torch cannot run on a device."""
    if device != "cuda":
        return
    if torch.version.cuda is None:
        raise EngineError(
            f"torch {torch.__version__} is built without CUDA, and the reference must run on the variants' device",
            "install a build of torch with CUDA",
        )
    if not torch.cuda.is_available():
        raise EngineError(
            f"torch {torch.__version__} for CUDA {torch.version.cuda} finds no GPU",
            "check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES",
        )


@contextlib.contextmanager
def kernels(setup: TorchSetup) -> Iterator[None]:
    """Let torch use the kernels of a setup on CUDA: those that round to TF32, and cuDNN's attention.

    The settings are the process's.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = setup.tf32
    try:
        with cudnn_attention(enabled=setup.cudnn_attention):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextlib.contextmanager
def on_cpu(model: Any) -> Iterator[Any]:
    """Move a model to the CPU, where conversion runs, and afterwards back to its device."""
    device = next(model.parameters()).device
    model.to("cpu")
    try:
        yield model
    finally:
        model.to(device)
