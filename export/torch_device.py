"""Run torch on the device that variants are built for."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from tuneport.errors import EngineError
from tuneport.modeling.attention import cudnn_attention
from tuneport.schema.artifact import Device
from tuneport.schema.torch_setup import TorchDevice, TorchSetup

TORCH_DEVICES: dict[Device, TorchDevice] = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}
"""Device of a variant → the device on which torch is its reference and its baseline."""


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
