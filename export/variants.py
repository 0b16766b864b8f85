"""Declare the variants: how each is built from the fp32 graph, where it runs, and the limits that it must meet.

A new variant is an entry of `VARIANTS` with its list of passes.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuneport.errors import TuneportError
from tuneport.host import Host
from tuneport.schema.artifact import Device, Engine, Precision
from tuneport.tasks import FamilyName

from .config import MIN_CALIBRATION_ROWS
from .families import ExportFamily
from .gate import EXACT, Measurement, Thresholds
from .passes.context import Pass
from .passes.distill import distilled
from .passes.fp16 import fp16
from .passes.fuse import fuse
from .passes.generative import generative_int4, generative_int8
from .passes.int8 import int8_dynamic, int8_static
from .passes.nncf import nncf_int8
from .passes.smoothquant import smoothquant

MIN_TOLERANCE = 0.05
CPU: tuple[Device, ...] = ("cpu",)
ALL_DEVICES: tuple[Device, ...] = ("cpu", "cuda", "tensorrt")


@dataclass(frozen=True)
class VariantSpec:
    """How a variant is built and checked."""

    engine: Engine
    precision: Precision
    devices: tuple[Device, ...]
    passes: Mapping[FamilyName, tuple[Pass, ...]] = field(default_factory=lambda: {"encoder": ()})
    """Family → passes over the fp32 graph, in order; without passes the variant uses the fp32 graph itself."""
    is_default: bool = True
    """Whether it is built if no variants are named."""
    needs_data: bool = False
    """Whether it is calibrated or trained on the user's data."""
    is_exact: bool = False
    """Whether its outputs may differ from torch's only by rounding."""
    min_agreement: float = 0.99
    """Smallest share of predictions equal to torch's, of variants of encoders that are not exact."""
    supports_node_exclusion: bool = False
    """Whether nodes can stay in fp32 if the variant fails its gate; for encoders."""

    def thresholds(self, max_drop: float, unit: float, family: ExportFamily) -> Thresholds:
        """Return the limits of the gate; `unit` is the scale of outputs."""
        if self.is_exact:
            return Thresholds(max_abs_diff=EXACT * unit, min_agreement=1.0, max_drop=max_drop)
        min_agreement = self.min_agreement if family.needs_agreement else 0.0
        return Thresholds(max_abs_diff=None, min_agreement=min_agreement, max_drop=max_drop)

    def tolerance(self, measurement: Measurement, unit: float, family: ExportFamily) -> float:
        """Return the difference from torch that golden cases may show on another host, whose kernels may differ."""
        if self.is_exact:
            return EXACT * unit
        return min(max(MIN_TOLERANCE, 2 * measurement.parity.golden_max_abs_diff), family.max_tolerance)


BOTH: dict[FamilyName, tuple[Pass, ...]] = {"encoder": (), "generative": ()}
DISTILLED: dict[str, Any] = {"is_default": False, "needs_data": True, "min_agreement": 0.9}
"""Models with fewer layers may predict differently, so their metric decides, with a lower limit on agreement."""
VARIANTS: dict[str, VariantSpec] = {
    "fp32": VariantSpec("onnxruntime", "fp32", ALL_DEVICES, BOTH, is_exact=True),
    "fused": VariantSpec("onnxruntime", "fp32", ("cpu", "cuda"), {"encoder": (fuse,)}, is_exact=True, is_default=False),
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
        ("cpu", "tensorrt"),
        {"encoder": (smoothquant, int8_static)},
        is_default=False,
        needs_data=True,
        supports_node_exclusion=True,
    ),
    "fp16": VariantSpec("onnxruntime", "fp16", ("cuda", "tensorrt"), {"encoder": (fp16,)}, needs_data=True),
    "openvino": VariantSpec("openvino", "fp32", CPU, is_exact=True),
    "openvino-bf16": VariantSpec("openvino", "bf16", CPU),
    "openvino-int8": VariantSpec("openvino", "int8", CPU, {"encoder": (nncf_int8,)}, needs_data=True),
    "pruned": VariantSpec("onnxruntime", "fp32", ALL_DEVICES, {"encoder": (distilled,)}, **DISTILLED),
    "pruned-int8": VariantSpec("onnxruntime", "int8", CPU, {"encoder": (distilled, int8_dynamic)}, **DISTILLED),
    "int4": VariantSpec("onnxruntime", "int4", ("cpu", "cuda"), {"generative": (generative_int4,)}),
}


def select_variants(
    names: tuple[str, ...], device: Device, *, rows: int | None = None, family: FamilyName | None = None
) -> dict[str, VariantSpec]:
    """Return the variants to build, fp32 first and always; a TuneportError for combinations that cannot work.

    `family` is that of the model and `rows` the number of rows of data; None while they are not known. Without names,
    these are the default variants that the processor, the installed packages and the data allow on the device.
    """
    if unknown := [name for name in names if name not in VARIANTS]:
        raise TuneportError(f"unknown variants {unknown}", f"choose among {', '.join(VARIANTS)}")
    for name in names:
        if obstacle := _obstacle(name, device, rows, family) or _missing_labels(name, rows):
            possible = [each for each in VARIANTS if not _obstacle(each, device, rows, family)]
            raise TuneportError(f"{name} {obstacle[0]}", f"{obstacle[1]}, or choose among {', '.join(possible)}")
    wanted = names or tuple(
        name
        for name, spec in VARIANTS.items()
        if spec.is_default and not _obstacle(name, device, rows, family or "encoder")
    )
    return {name: spec for name, spec in VARIANTS.items() if name == "fp32" or name in wanted}


def _obstacle(name: str, device: Device, rows: int | None, family: FamilyName | None) -> tuple[str, str] | None:
    """Return why a variant cannot be built here, and the remedy; None if it can."""
    spec = VARIANTS[name]
    if family is not None and family not in spec.passes:
        return f"is for {' and '.join(spec.passes)} models", "leave it out"
    if device not in spec.devices:
        return f"does not run on {device}", "give another --device"
    if spec.engine == "openvino" and importlib.util.find_spec("openvino") is None:
        return "needs OpenVINO", "install tuneport[openvino]"
    if name == "openvino-int8" and importlib.util.find_spec("nncf") is None:
        return "needs NNCF", "install tuneport[openvino]"
    if spec.precision == "bf16" and not Host.here().has_bf16:
        return "needs a processor with bfloat16 instructions, which this is not", "export on one that has them"
    if spec.needs_data and rows is not None and rows < MIN_CALIBRATION_ROWS:
        problem = f"is calibrated on data, of which there are {rows} rows"
        return problem, f"give at least {MIN_CALIBRATION_ROWS} with --data"
    return None


def _missing_labels(name: str, rows: int | None) -> tuple[str, str] | None:
    """Return why a variant that was named could not pass its gate, and the remedy; None if it could."""
    if rows == 0 and not VARIANTS[name].is_exact:
        return "gives up precision and is judged on labelled data, and there is none", "give some with --data"
    return None
