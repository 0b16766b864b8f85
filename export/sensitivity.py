"""Which parts of a graph a quantized variant cannot do without: measured, and the smallest set that passes found."""

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from export.files import EngineError
from export.variants import Build, Material

Error = Callable[[Path], float]
"""Opens a graph and returns how far its outputs are from torch's."""
Parts = dict[str, list[str]]
"""Part of the model → its nodes."""
QUANTIZED = {"MatMul", "Gemm", "Gather", "Attention"}
LAYER = re.compile(r".*?/(?:layers?|h|blocks?)[./]\d+(?:/[^/]+)?")


def parts_of(fp32: Path) -> Parts:
    """Group the nodes that quantization touches by sub-layer: `…/layer.0/attention`, `…/embeddings`, …."""
    parts: Parts = {}
    for node in onnx.load(str(fp32), load_external_data=False).graph.node:
        if node.op_type in QUANTIZED and node.name:
            found = LAYER.match(node.name)
            key = found.group() if found else "/".join(node.name.split("/")[:3])
            parts.setdefault(key, []).append(node.name)
    return parts


def kept_sets(
    material: Material, build: Build, error: Error, *, deadline: float, progress: Callable[[str], object]
) -> Iterator[tuple[tuple[str, ...], Material]]:
    """Yield sets of parts to keep in fp32, the smallest first, each with the material to build from.

    Parts are ranked by the error that quantizing them alone makes. Ends at `deadline`, a time of `time.monotonic`;
    parts that were not measured until then count as harmless.
    """
    parts = parts_of(material.fp32)
    half = time.monotonic() + (deadline - time.monotonic()) / 2  # the other half is for trying
    ranked = _rank(parts, material, build, error, half, progress)
    count = 1
    while count < len(parts) and time.monotonic() < deadline:
        chosen = tuple(ranked[:count])
        progress(f"keeping {count} of {len(parts)} parts in fp32")
        yield chosen, replace(material, kept=_nodes(parts, chosen))
        count = count + 1 if count < 4 else 2 * count


def _rank(
    parts: Parts, material: Material, build: Build, error: Error, deadline: float, progress: Callable[[str], object]
) -> list[str]:
    errors = dict.fromkeys(parts, 0.0)
    for part in parts:
        if time.monotonic() > deadline:
            break
        progress(f"measuring what {part} costs")
        others = [name for name in parts if name != part]
        with tempfile.TemporaryDirectory(dir=material.fp32.parent) as made:
            try:
                names = build(replace(material, kept=_nodes(parts, others)), Path(made))
                errors[part] = error(Path(made) / names[0])
            except (EngineError, RuntimeError, ValueError):
                errors[part] = float("inf")
    return sorted(parts, key=lambda part: -errors[part])


def _nodes(parts: Parts, chosen: Sequence[str]) -> tuple[str, ...]:
    return tuple(node for part in chosen for node in parts[part])
