"""The ideas: each a variant of the export with something changed."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from tuneport.host import usable_cores
from tuneport.stages.export.graph import Graph, quiet, save_graph
from tuneport.stages.export.passes.context import BuildContext
from tuneport.stages.export.passes.fuse import fuse
from tuneport.stages.export.passes.int8 import OP_TYPES
from tuneport.stages.export.variants import VARIANTS, VariantSpec

INT8 = "int8"
"""What the others are compared with."""


@dataclass(frozen=True)
class Idea:
    """One way to run the checkpoint."""

    what: str
    """In the table."""
    spec: VariantSpec
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of what the variant is built from: fields of `BuildContext`."""
    streams: int = 1
    has_buckets: bool = False
    """Whether each shape of a few gets a session of its own."""
    prune_layers: int | None = None
    """Layers that its student leaves out."""


def quantize_fused(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Quantize the products of a fused graph, whose operators leave the types of their outputs open."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch, quiet():
        file = Path(scratch) / "quantized.onnx"
        quantize_dynamic(
            str(graph.path),
            str(file),
            op_types_to_quantize=[*OP_TYPES, "Attention"],
            per_channel=True,
            reduce_range=context.reduce_range,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
        return Graph(folder, save_graph(file, folder / "model.onnx"))


def ideas(depth: int) -> dict[str, Idea]:
    """Return the ideas for a model of `depth` layers, by name."""
    cores, int8, static = usable_cores(), VARIANTS["int8"], VARIANTS["int8-static"]
    fused = replace(int8, passes={"encoder": (fuse, quantize_fused)})
    all_ideas = {
        "fp32": Idea("ONNX Runtime, fp32", VARIANTS["fp32"]),
        INT8: Idea("dynamic int8, as the export has it", int8),
        "streams": Idea(f"dynamic int8, {cores} streams of one thread", int8, streams=cores),
        "range-7": Idea("dynamic int8, weights of 7 bits", int8, {"reduce_range": True}),
        "range-8": Idea("dynamic int8, weights of 8 bits", int8, {"reduce_range": False}),
        "static": Idea("static int8 (QDQ), ranges by minimum and maximum", static, {"smoothquant": False}),
        "static-smooth": Idea("static int8 after SmoothQuant", static, {"smoothquant": True}),
        "fused": Idea("fused, then dynamic int8", fused),
        "fused-7": Idea("fused, then dynamic int8 of 7 bits", fused, {"reduce_range": True}),
        "buckets": Idea("dynamic int8, a session for each shape of a few", int8, has_buckets=True),
        "openvino-bf16": Idea("OpenVINO, bf16", VARIANTS["openvino-bf16"]),
        "openvino-streams": Idea(f"OpenVINO, bf16, {cores} streams", VARIANTS["openvino-bf16"], streams=cores),
        "openvino-int8": Idea("OpenVINO, int8 of NNCF", VARIANTS["openvino-int8"]),
    }
    student = VARIANTS["pruned-int8"]
    for name, layers in (("third", depth // 3), ("half", depth // 2)):
        if layers:
            what = f"dynamic int8 of a student without {layers} of {depth} layers"
            all_ideas[f"pruned-{name}"] = Idea(what, student, prune_layers=layers)
    return all_ideas
