"""Declare the variants: how each is built from the fp32 graph, where it runs, and the limits that it must meet.

A new variant is an entry of `VARIANTS` with its list of passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuneport.gpu import AMPERE, TURING
from tuneport.schema.artifact import ComputeCapability, Device, Engine, Layout, Precision
from tuneport.tasks import FamilyName

from .families import ExportFamily
from .gate import EXACT, Measurement, Thresholds
from .passes.bf16 import bf16
from .passes.context import Pass
from .passes.distill import distilled
from .passes.fp16 import fp16
from .passes.fuse import fuse, fuse_multi_head
from .passes.generative import generative_fp16, generative_int4, generative_int8
from .passes.int8 import int8_dynamic, int8_static, int8_symmetric
from .passes.nncf import nncf_int8
from .passes.packed import packed, packed_multi_head
from .passes.smoothquant import smoothquant

MIN_TOLERANCE = 0.05
CPU: tuple[Device, ...] = ("cpu",)
CUDA: tuple[Device, ...] = ("cuda",)
CPU_AND_CUDA: tuple[Device, ...] = ("cpu", "cuda")


@dataclass(frozen=True)
class VariantSpec:
    """How a variant is built and checked."""

    engine: Engine
    precision: Precision
    devices: tuple[Device, ...]
    passes: Mapping[FamilyName, tuple[Pass, ...]] = field(default_factory=lambda: {"encoder": ()})
    """Family → passes over the fp32 graph, in order; without passes the variant uses the fp32 graph itself."""
    default_on: tuple[Device, ...] = CPU_AND_CUDA
    """Devices for which it is built if no variants are named."""
    needs_data: bool = False
    """Whether it is calibrated or trained on the user's data."""
    is_exact: bool = False
    """Whether its outputs may differ from torch's only by rounding."""
    min_agreement: float = 0.99
    """Smallest share of predictions equal to torch's, of variants of encoders that are not exact."""
    supports_node_exclusion: bool = False
    """Whether nodes can stay in fp32 if the variant fails its gate; for encoders."""
    layout: Layout = "padded"
    uses_tensorrt: bool = False
    """Whether TensorRT runs it on the GPU, and CUDA only what TensorRT cannot compile."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    min_compute_capability: ComputeCapability = TURING
    """What the GPU must have."""
    student_of: str | None = None
    """The variant that computes the same of the full model, for variants of a student."""
    replaces: str | None = None
    """The variant in whose place it is built if that fails its gate; without names it is built for no other reason."""

    def execution_device(self, device: Device) -> Device:
        """Return the device that it runs on in an artifact for `device`."""
        return "tensorrt" if self.uses_tensorrt else device

    def thresholds(self, max_drop: float, unit: float, family: ExportFamily, *, is_unlabelled: bool) -> Thresholds:
        """Return the limits of the gate; `unit` is the scale of outputs."""
        if self.is_exact:
            return Thresholds(max_abs_diff=EXACT * unit, min_agreement=1.0, max_drop=max_drop)
        min_agreement = self.min_agreement if family.needs_agreement else 0.0
        return Thresholds.close(min_agreement, max_drop, is_unlabelled=is_unlabelled)

    def tolerance(self, measurement: Measurement, unit: float, family: ExportFamily) -> float:
        """Return the difference from torch that golden cases may show on another host, whose kernels may differ."""
        if self.is_exact:
            return EXACT * unit
        return min(max(MIN_TOLERANCE, 2 * measurement.parity.golden_max_abs_diff), family.max_tolerance)


BOTH: dict[FamilyName, tuple[Pass, ...]] = {"encoder": (), "generative": ()}
STUDENT_AGREEMENT = 0.9
"""Share of torch's answers that a student must give; its metric decides."""
STUDENT: dict[str, Any] = {"needs_data": True, "min_agreement": STUDENT_AGREEMENT}
"""Models with fewer layers may predict differently, so their metric decides, with a lower limit on agreement."""
VARIANTS: dict[str, VariantSpec] = {
    "fp32": VariantSpec("onnxruntime", "fp32", CPU_AND_CUDA, BOTH, is_exact=True),
    "fused": VariantSpec("onnxruntime", "fp32", CPU_AND_CUDA, {"encoder": (fuse,)}, default_on=CUDA, is_exact=True),
    "int8": VariantSpec(
        "onnxruntime",
        "int8",
        CPU,
        {"encoder": (int8_dynamic,), "generative": (generative_int8,)},
        supports_node_exclusion=True,
    ),
    "int8-static": VariantSpec(
        "onnxruntime",
        "int8",
        CPU,
        {"encoder": (smoothquant, int8_static)},
        default_on=(),
        needs_data=True,
        supports_node_exclusion=True,
    ),
    "fp16": VariantSpec(
        "onnxruntime", "fp16", CUDA, {"encoder": (fuse, fp16), "generative": (generative_fp16,)}, needs_data=True
    ),
    "fp16-packed": VariantSpec(
        "onnxruntime", "fp16", CUDA, {"encoder": (fuse, fp16, packed)}, needs_data=True, layout="packed"
    ),
    "fp16-packed-mha": VariantSpec(
        "onnxruntime", "fp16", CUDA, {"encoder": (fuse, fp16, packed_multi_head)}, needs_data=True, layout="packed"
    ),
    "bf16": VariantSpec(
        "onnxruntime",
        "bf16",
        CUDA,
        {"encoder": (fuse_multi_head, bf16)},
        min_compute_capability=AMPERE,
        replaces="fp16",
    ),
    "tensorrt-fp16": VariantSpec(
        "onnxruntime",
        "fp16",
        CUDA,
        uses_tensorrt=True,
        provider_options={"trt_fp16_enable": "True"},
    ),
    "tensorrt-int8": VariantSpec(
        "onnxruntime",
        "int8",
        CUDA,
        {"encoder": (smoothquant, int8_symmetric)},
        needs_data=True,
        supports_node_exclusion=True,
        uses_tensorrt=True,
        provider_options={"trt_fp16_enable": "True", "trt_int8_enable": "True"},
    ),
    "openvino": VariantSpec("openvino", "fp32", CPU, is_exact=True),
    "openvino-bf16": VariantSpec("openvino", "bf16", CPU),
    "openvino-int8": VariantSpec("openvino", "int8", CPU, {"encoder": (nncf_int8,)}, needs_data=True),
    "pruned": VariantSpec(
        "onnxruntime", "fp32", CPU_AND_CUDA, {"encoder": (distilled,)}, default_on=(), student_of="fp32", **STUDENT
    ),
    "pruned-int8": VariantSpec(
        "onnxruntime", "int8", CPU, {"encoder": (distilled, int8_dynamic)}, student_of="int8", **STUDENT
    ),
    "pruned-openvino-bf16": VariantSpec(
        "openvino", "bf16", CPU, {"encoder": (distilled,)}, student_of="openvino-bf16", **STUDENT
    ),
    "pruned-openvino-int8": VariantSpec(
        "openvino", "int8", CPU, {"encoder": (distilled, nncf_int8)}, student_of="openvino-int8", **STUDENT
    ),
    "int4": VariantSpec("onnxruntime", "int4", CPU_AND_CUDA, {"generative": (generative_int4,)}),
}
