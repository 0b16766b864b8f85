"""Find the parts of a graph that a quantized variant must keep in fp32, by the error that each part causes."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from tuneport.errors import TuneportError

from .passes.context import BuildContext

ErrorOf = Callable[[BuildContext], float]
"""Build a variant from a context and return the mean error of its outputs."""
Parts = dict[str, list[str]]
"""Part of the model → names of its nodes."""
QUANTIZED = {"MatMul", "Gemm", "Gather", "Attention"}
LAYER = re.compile(r".*?/(?:layers?|h|blocks?)[./]\d+(?:/[^/]+)?")


def parts_of(fp32: Path) -> Parts:
    """Group the nodes that quantization changes by sub-layer, such as `…/layer.0/attention` or `…/embeddings`."""
    parts: Parts = {}
    for node in onnx.load(str(fp32), load_external_data=False).graph.node:
        if node.op_type in QUANTIZED and node.name:
            layer = LAYER.match(node.name)
            part = layer.group() if layer else "/".join(node.name.split("/")[:3])
            parts.setdefault(part, []).append(node.name)
    return parts


def exclusion_sets(
    context: BuildContext, error_of: ErrorOf, *, deadline: float, progress: Callable[[str], object]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield sets of parts to keep in fp32, the smallest first, each with the names of its nodes.

    Parts are ranked by the error of a variant in which only they are quantized. Half of the time until `deadline`, a
    time of `time.monotonic`, is for the ranking; parts that are not measured by then rank last.
    """
    parts = parts_of(context.fp32.path)
    ranking_deadline = time.monotonic() + (deadline - time.monotonic()) / 2
    ranked = _rank(parts, context, error_of, ranking_deadline, progress)
    count = 1
    while count < len(parts) and time.monotonic() < deadline:
        chosen = tuple(ranked[:count])
        progress(f"keeping {count} of {len(parts)} parts in fp32")
        yield chosen, _nodes(parts, chosen)
        count = count + 1 if count < 4 else 2 * count


def _rank(
    parts: Parts, context: BuildContext, error_of: ErrorOf, deadline: float, progress: Callable[[str], object]
) -> list[str]:
    errors = dict.fromkeys(parts, 0.0)
    for part in parts:
        if time.monotonic() > deadline:
            break
        progress(f"measuring the error that quantizing {part} causes")
        others = [name for name in parts if name != part]
        try:
            errors[part] = error_of(replace(context, excluded_nodes=_nodes(parts, others)))
        except TuneportError:
            errors[part] = float("inf")
    return sorted(parts, key=lambda part: -errors[part])


def _nodes(parts: Parts, chosen: Sequence[str]) -> tuple[str, ...]:
    return tuple(node for part in chosen for node in parts[part])
