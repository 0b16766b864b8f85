"""How torch runs a checkpoint: as the reference that outputs are compared with, and as a baseline of timings.

Imported while services start, so it needs only the standard library and pydantic.
"""

from typing import Literal

from tuneport.schema.base import Frozen

TorchDevice = Literal["cpu", "cuda"]
TorchPrecision = Literal["fp32", "fp16", "bf16", "int8"]
"""int8: torch's own dynamic quantization of linear layers, on a CPU."""
PrecisionClass = Literal["fp32", "half", "int8"]
"""fp32, TF32 included; fp16 and bf16; int8."""


class TorchSetup(Frozen):
    """How torch runs a checkpoint. By default as the gate's reference: fp32 without TF32."""

    device: TorchDevice = "cpu"
    precision: TorchPrecision = "fp32"
    tf32: bool = False
    """Whether products of fp32 matrices may round their factors to TF32."""
    cudnn_attention: bool = False
    """Whether attention may run in cuDNN, which pays on batches of one shape; see `tuneport.modeling.attention`."""
    compiled: bool = False
    """Whether `torch.compile` compiles the model."""
    attention: str | None = None
    """transformers' implementation of attention, such as `sdpa`; None until the model is loaded."""

    @property
    def name(self) -> str:
        """Return the name of the baseline in tables."""
        precision = "tf32" if self.tf32 else self.precision
        return f"torch {precision}{' compiled' if self.compiled else ''}"

    @property
    def precision_class(self) -> PrecisionClass:
        """Return the class in which speeds are compared."""
        classes: dict[TorchPrecision, PrecisionClass] = {"fp32": "fp32", "int8": "int8"}
        return classes.get(self.precision, "half")


CPU_REFERENCE = TorchSetup()
REFERENCE = CPU_REFERENCE.name
"""The name of the reference in tables, on every device."""
