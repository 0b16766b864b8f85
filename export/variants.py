"""What can be made of an fp32 graph, and the rule that each variant must keep to.

A new variant is an entry here with the function that builds it.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from export.files import TuneportError
from export.manifest import Device, Engine
from export.parity import Evidence, Rule
from export.quantize import quantize_dynamic

EXACT = 1e-3
"""|Δlogit| that a change of engine alone may bring."""


@dataclass(frozen=True)
class Recipe:
    """How a variant is built and judged."""

    engine: Engine
    precision: Literal["fp32", "int8"]
    devices: tuple[Device, ...]
    build: Callable[[Path, Path], object]
    """From the fp32 graph to the variant's file."""

    def rule(self, max_drop: float) -> Rule:
        """Return the gate of this precision."""
        if self.precision == "fp32":
            return Rule(max_abs_diff=EXACT, min_label_agreement=1.0, max_drop=max_drop)
        return Rule(max_abs_diff=None, min_label_agreement=0.99, max_drop=max_drop)

    def tolerance(self, evidence: Evidence) -> float:
        """Return what the golden cases may show elsewhere: twice what they showed here, as kernels differ."""
        if self.precision == "fp32":
            return EXACT
        return max(0.05, 2 * evidence.parity.golden_max_abs_diff)


RECIPES: dict[str, Recipe] = {
    "fp32": Recipe("onnxruntime", "fp32", ("cpu", "cuda"), shutil.copyfile),
    "int8": Recipe("onnxruntime", "int8", ("cpu",), quantize_dynamic),
}


def choose_recipes(names: tuple[str, ...], device: Device) -> dict[str, Recipe]:
    """Return the recipes to build, fp32 first and always; impossible combinations are refused here.

    Without names, all that the device can run.
    """
    if unknown := [name for name in names if name not in RECIPES]:
        raise TuneportError(f"unknown variants {unknown}", f"choose among {', '.join(RECIPES)}")
    for name in names:
        if device not in RECIPES[name].devices:
            can = ", ".join(each for each, recipe in RECIPES.items() if device in recipe.devices)
            raise TuneportError(f"{name} does not run on {device}", f"choose among {can}, or another --device")
    wanted = names or tuple(name for name, recipe in RECIPES.items() if device in recipe.devices)
    return {name: recipe for name, recipe in RECIPES.items() if name == "fp32" or name in wanted}
