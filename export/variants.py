"""What can be made of an fp32 graph, and the rule that each variant must keep to.

A new variant is an entry here with the function that builds it.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from export.files import TuneportError
from export.fuse import fuse
from export.gate import EXACT, Evidence, Rule
from export.half import to_half
from export.machine import Machine
from export.manifest import Device, Engine, Precision
from export.quantize import Ranges, quantize_calibrated, quantize_dynamic
from export.smooth import smooth
from serve.tokenizer import Ids

FEWEST_CALIBRATION_ROWS = 32
WRITTEN_AT_MOST = 0.95
"""Share of golden tokens that a quantized model may write otherwise on another machine: not all of them."""


Kind = Literal["encoder", "writer"]
"""One graph that is run once, or a decoder that is run for every token."""


@dataclass(frozen=True)
class Material:
    """What variants are made of."""

    fp32: Path
    """The graph, checked before anything is made of it."""
    files: tuple[str, ...]
    """Its files' names."""
    feeds: Sequence[Mapping[str, Ids]]
    """Padded batches of the user's data, for calibration."""
    ranges: Ranges
    smooth: bool
    """Whether static quantization moves outliers of activations into weights first."""
    model_type: str
    heads: int
    hidden: int
    prune: Callable[[Path], list[str]] | None = None
    """Makes a shallower model and converts it into a folder; None where there is nothing to teach it with."""
    reduce_range: bool = False
    """Whether int8 weights use 7 bits: decided by the processor that the artifact is for."""
    kept: tuple[str, ...] = ()
    """Nodes that stay in fp32."""
    kind: Kind = "encoder"


Build = Callable[[Material, Path], list[str]]
"""Writes a variant's files into a folder of its own and returns their names, the graph first."""


@dataclass(frozen=True)
class Recipe:
    """How a variant is built and judged."""

    engine: Engine
    precision: Precision
    devices: tuple[Device, ...]
    build: Build | None
    """None: the engine takes the fp32 graph as it is."""
    is_default: bool = True
    """Whether it is built when nobody names variants."""
    is_calibrated: bool = False
    """Whether it needs the user's data."""
    is_exact: bool = False
    """Whether only the order of its sums may differ from torch's."""
    min_agreement: float = 0.99
    """Share of torch's answers that one which is not exact must give."""
    is_searched: bool = False
    """Whether nodes can be kept in fp32 where it fails its gate; of encoders."""
    kinds: tuple[Kind, ...] = ("encoder",)
    """What it can be made of."""

    def rule(self, max_drop: float, unit: float = 1.0, kind: Kind = "encoder") -> Rule:
        """Return the gate of this precision; `unit` is what outputs are measured in."""
        if self.is_exact:
            return Rule(max_abs_diff=EXACT * unit, min_agreement=1.0, max_drop=max_drop)
        # A text goes on otherwise after one token that tips over, and may be as good: its metric tells.
        return Rule(
            max_abs_diff=None, min_agreement=self.min_agreement if kind == "encoder" else 0.0, max_drop=max_drop
        )

    def tolerance(self, evidence: Evidence, unit: float = 1.0, kind: Kind = "encoder") -> float:
        """Return what the golden cases may show elsewhere: twice what they showed here, as kernels differ."""
        if self.is_exact:
            return EXACT * unit
        twice = max(0.05, 2 * evidence.parity.golden_max_abs_diff)
        return twice if kind == "encoder" else min(twice, WRITTEN_AT_MOST)


def _dynamic(material: Material, folder: Path) -> list[str]:
    if material.kind == "writer":
        from export.generative_onnx import quantize_writer

        return quantize_writer(material.fp32, material.files, folder, reduce_range=material.reduce_range)
    return quantize_dynamic(material.fp32, folder, material.kept, reduce_range=material.reduce_range)


def _int4(material: Material, folder: Path) -> list[str]:
    from export.generative_onnx import quantize_writer_int4

    return quantize_writer_int4(material.fp32, material.files, folder)


def _calibrated(material: Material, folder: Path) -> list[str]:
    if not material.smooth:
        return _quantize_calibrated(material.fp32, folder, material)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        smoothed = Path(made) / "smoothed.onnx"
        smooth(material.fp32, smoothed, material.feeds)
        return _quantize_calibrated(smoothed, folder, material)


def _quantize_calibrated(fp32: Path, folder: Path, material: Material) -> list[str]:
    return quantize_calibrated(
        fp32, folder, material.feeds, material.kept, material.ranges, reduce_range=material.reduce_range
    )


def _fused(material: Material, folder: Path) -> list[str]:
    return fuse(material.fp32, folder, material.model_type, material.heads, material.hidden)


def _half(material: Material, folder: Path) -> list[str]:
    return to_half(material.fp32, folder, material.feeds)


def _nncf(material: Material, folder: Path) -> list[str]:
    from export.openvino import quantize_nncf

    return quantize_nncf(material.fp32, folder, material.feeds)


def _pruned(material: Material, folder: Path) -> list[str]:
    assert material.prune is not None  # refused before, as it is calibrated on data
    return material.prune(folder)


def _pruned_int8(material: Material, folder: Path) -> list[str]:
    with tempfile.TemporaryDirectory(dir=folder) as made:
        pruned = Path(made) / _pruned(material, Path(made))[0]
        return quantize_dynamic(pruned, folder, reduce_range=material.reduce_range)


EVERYWHERE: tuple[Device, ...] = ("cpu", "cuda", "tensorrt")
PRUNED: dict[str, Any] = {"is_default": False, "is_calibrated": True, "min_agreement": 0.9}
"""A shallower model is another model: the metric decides, and agreement guards against one that is right elsewhere."""
RECIPES: dict[str, Recipe] = {
    "fp32": Recipe("onnxruntime", "fp32", EVERYWHERE, None, is_exact=True, kinds=("encoder", "writer")),
    "fused": Recipe("onnxruntime", "fp32", ("cpu", "cuda"), _fused, is_exact=True, is_default=False),
    "int8": Recipe("onnxruntime", "int8", ("cpu",), _dynamic, is_searched=True, kinds=("encoder", "writer")),
    "int8-static": Recipe(
        "onnxruntime", "int8", ("cpu", "tensorrt"), _calibrated, is_default=False, is_calibrated=True, is_searched=True
    ),
    "fp16": Recipe("onnxruntime", "fp16", ("cuda", "tensorrt"), _half, is_calibrated=True),
    "openvino": Recipe("openvino", "fp32", ("cpu",), None, is_exact=True),
    "openvino-bf16": Recipe("openvino", "bf16", ("cpu",), None),
    "openvino-int8": Recipe("openvino", "int8", ("cpu",), _nncf, is_calibrated=True),
    "pruned": Recipe("onnxruntime", "fp32", EVERYWHERE, _pruned, **PRUNED),
    "pruned-int8": Recipe("onnxruntime", "int8", ("cpu",), _pruned_int8, **PRUNED),
    "int4": Recipe("onnxruntime", "int4", ("cpu", "cuda"), _int4, kinds=("writer",)),
}


def choose_recipes(
    names: tuple[str, ...], device: Device, *, rows: int | None = None, kind: Kind | None = None
) -> dict[str, Recipe]:
    """Return the recipes to build, fp32 first and always; impossible combinations are refused here.

    `kind` is what they are made of, and `rows` how many rows of data there are; None while that is not known yet.

    Without names, those that can pay on the device: what its processor, the packages installed and the data allow.
    """
    if unknown := [name for name in names if name not in RECIPES]:
        raise TuneportError(f"unknown variants {unknown}", f"choose among {', '.join(RECIPES)}")
    for name in names:
        if why := _impossible(name, device, rows, kind) or _unjudged(name, rows):
            able = [each for each in RECIPES if not _impossible(each, device, rows, kind)]
            raise TuneportError(f"{name} {why[0]}", f"{why[1]}, or choose among {', '.join(able)}")
    wanted = names or tuple(
        name
        for name, recipe in RECIPES.items()
        if recipe.is_default and not _impossible(name, device, rows, kind or "encoder")
    )
    return {name: recipe for name, recipe in RECIPES.items() if name == "fp32" or name in wanted}


def _impossible(name: str, device: Device, rows: int | None, kind: Kind | None) -> tuple[str, str] | None:
    """Say why a variant cannot be made here, and what would help; None if it can."""
    recipe = RECIPES[name]
    if kind is not None and kind not in recipe.kinds:
        what = "models that write" if "writer" in recipe.kinds else "models that write nothing"
        return f"is for {what}", "leave it out"
    if device not in recipe.devices:
        return f"does not run on {device}", "give another --device"
    if recipe.engine == "openvino" and importlib.util.find_spec("openvino") is None:
        return "needs OpenVINO", "install tuneport[openvino]"
    if name == "openvino-int8" and importlib.util.find_spec("nncf") is None:
        return "needs NNCF", "install tuneport[openvino]"
    if recipe.precision == "bf16" and not Machine.here().has_bf16:
        return "needs a processor that multiplies bfloat16, which this is not", "export on one that does"
    if recipe.is_calibrated and rows is not None and rows < FEWEST_CALIBRATION_ROWS:
        few = f"is calibrated on data, of which there are {rows} rows"
        return few, f"give at least {FEWEST_CALIBRATION_ROWS} with --data"
    return None


def _unjudged(name: str, rows: int | None) -> tuple[str, str] | None:
    """Say why a variant that was asked for by name could not pass, before it is built."""
    if rows == 0 and not RECIPES[name].is_exact:
        return "gives up precision and is judged on labelled data, and there is none", "give some with --data"
    return None
