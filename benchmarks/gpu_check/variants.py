"""Step `variants`: which variants the check expects, which of them the export rejected, and why.

    python -m tuneport.stages.benchmarks.gpu_check.variants ARTIFACT DEVICE VARIANTS RESULT

VARIANTS are names with commas between them. Fails if one is not in the artifact. Default variants of the device that
the host cannot build, such as TensorRT's without TensorRT, are listed with the reason.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tuneport.errors import TuneportError
from tuneport.schema.loading import load_manifest
from tuneport.schema.torch_setup import TorchDevice
from tuneport.stages.export.applicable import select_variants
from tuneport.stages.export.build import FP32
from tuneport.stages.export.variants import VARIANTS

from ..command import one_line_errors
from .steps import write_result

ABSENT = "it is in the artifact neither as a variant nor as a rejected one"


def expected_variants(device: TorchDevice, *, on_tensorrt: bool | None = None) -> tuple[str, ...]:
    """Return the default variants of an encoder that this host can build, one that replaces another included.

    Students are left out: whether they are worth building depends on the speed of the others. `on_tensorrt` asks for
    TensorRT's, whose engines take minutes to build, or for the others.
    """
    specs = {name: VARIANTS[name] for name in select_variants((), device, family="encoder")}
    wanted = {name: spec for name, spec in specs.items() if on_tensorrt in (None, spec.uses_tensorrt)}
    return tuple(name for name, spec in wanted.items() if not spec.student_of)


def impossible_variants(device: TorchDevice) -> dict[str, str]:
    """Return the other default variants of an encoder on the device, and why this host cannot build them."""
    reasons = {}
    for name, spec in VARIANTS.items():
        is_default = device in spec.default_on and device in spec.devices and "encoder" in spec.passes
        if is_default and not spec.student_of and name not in expected_variants(device):
            try:
                select_variants((name,), device, family="encoder")
            except TuneportError as error:
                reasons[name] = error.problem
    return reasons


def check_variants(artifact: Path, expected: tuple[str, ...]) -> dict[str, Any]:
    """Return which of the expected variants passed their gates, and why the others are missing."""
    manifest = load_manifest(artifact)
    passed = [variant.name for variant in manifest.variants]
    rejected = {each.name: each.reason for each in manifest.rejected}
    missing = {name: rejected.get(name, ABSENT) for name in (FP32, *expected) if name not in passed}
    return {"passed": passed, "missing": missing}


def main() -> None:
    """Write which variants there are; exit with 1 if an expected one is missing."""
    artifact, device, names, result = sys.argv[1:]
    target: TorchDevice = "cuda" if device == "cuda" else "cpu"
    with one_line_errors():
        found = check_variants(Path(artifact), tuple(names.split(",")))
        found["not_run"] = impossible_variants(target)
    write_result(result, json.dumps(found))
    if found["missing"]:
        sys.exit("\n".join(f"{name} was rejected: {reason}" for name, reason in found["missing"].items()))


if __name__ == "__main__":
    main()
