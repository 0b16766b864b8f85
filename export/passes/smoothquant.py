"""Apply SmoothQuant: move outliers from the activations of matrix products into their weights.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (2023).
X·W = (X / s)·(s·W), with one s for each input channel. The graph gets a Mul node for the division.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from tuneport.runtime.backends.session import ORT_ERROR

from ..graph import Graph
from .context import BuildContext, CalibrationBatches

STRENGTH = 0.5
"""The paper's α: the share of an outlier that moves into the weights, from 0 to 1."""
MIN_MAGNITUDE = 1e-5


def smoothquant(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write a graph with smoothed matrix products, equal up to rounding; return the graph unchanged if it is off."""
    if not context.smoothquant:
        return graph
    model = onnx.load(str(graph.path))
    weights = {each.name: each for each in model.graph.initializer if len(each.dims) == 2}
    products: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            products.setdefault(node.input[0], []).append(node)
    largest = _largest_by_channel(model, list(products), context.calibration_batches)
    scaled = {}
    for activation, nodes in products.items():
        matrices = {node.input[1]: numpy_helper.to_array(weights[node.input[1]]) for node in nodes}
        largest_weight = np.maximum.reduce([np.abs(matrix).max(1) for matrix in matrices.values()])
        scale = np.maximum(largest[activation], MIN_MAGNITUDE) ** STRENGTH
        scale /= np.maximum(largest_weight, MIN_MAGNITUDE) ** (1 - STRENGTH)
        scale = np.clip(scale, MIN_MAGNITUDE, None).astype(np.float32)
        for name, matrix in matrices.items():
            weights[name].CopyFrom(numpy_helper.from_array(matrix * scale[:, None], name))
        scaled[activation] = _add_scaling(model, activation, 1 / scale, nodes)
    _insert_after_producers(model, scaled)
    onnx.save(model, str(folder / "smoothed.onnx"))
    return Graph(folder, ("smoothed.onnx",))


def _add_scaling(model: onnx.ModelProto, activation: str, factor: Any, nodes: Sequence[Any]) -> Any:
    """Create a Mul node of the activation and `factor` (channels,), and connect its output to `nodes`."""
    name = f"{activation}/smoothed"
    model.graph.initializer.append(numpy_helper.from_array(factor.astype(np.float32), f"{name}/factor"))
    for node in nodes:
        node.input[0] = name
    return helper.make_node("Mul", [activation, f"{name}/factor"], [name], name=name)


def _insert_after_producers(model: onnx.ModelProto, scaled: Mapping[str, Any]) -> None:
    """Insert each Mul node right after the node that outputs its activation, so that the order stays topological."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.append(node)
        model.graph.node.extend(scaled[name] for name in node.output if name in scaled)


def _largest_by_channel(model: onnx.ModelProto, names: Sequence[str], batches: CalibrationBatches) -> dict[str, Any]:
    """Return the largest |activation| of each channel over the calibration batches, float32 (channels,)."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = ORT_ERROR
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]
    largest: dict[str, Any] = {}
    for batch in batches:
        arrays = session.run(list(names), {each: batch[each] for each in inputs})
        for name, values in zip(names, arrays, strict=True):
            peak = np.abs(values).reshape(-1, values.shape[-1]).max(0)
            largest[name] = np.maximum(largest.get(name, 0), peak)
    return largest
