"""SmoothQuant: outliers move from a matrix product's activations into its weights, where int8 has a scale a channel.

After Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (2023):
X·W = (X / s)·(s·W), with s for each input channel. The division is a product of its own in the graph.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from serve.ort import ORT_ERROR
from serve.tokenizer import Ids

STRENGTH = 0.5
"""How much of the difficulty moves: 0 none, 1 all; the paper's α."""
SMALLEST = 1e-5


def smooth(fp32: Path, file: Path, feeds: Sequence[Mapping[str, Ids]]) -> None:
    """Write the graph with smoothed matrix products; the same function up to rounding."""
    model = onnx.load(str(fp32))
    weights = {each.name: each for each in model.graph.initializer if len(each.dims) == 2}
    products: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            products.setdefault(node.input[0], []).append(node)
    largest = _largest_by_channel(model, list(products), feeds)
    made = {}
    for activation, nodes in products.items():
        matrices = {node.input[1]: numpy_helper.to_array(weights[node.input[1]]) for node in nodes}
        heaviest = np.maximum.reduce([np.abs(matrix).max(1) for matrix in matrices.values()])
        scale = np.maximum(largest[activation], SMALLEST) ** STRENGTH / np.maximum(heaviest, SMALLEST) ** (1 - STRENGTH)
        scale = np.clip(scale, SMALLEST, None).astype(np.float32)
        for name, matrix in matrices.items():
            weights[name].CopyFrom(numpy_helper.from_array(matrix * scale[:, None], name))
        made[activation] = _insert(model, activation, 1 / scale, nodes)
    _place(model, made)
    onnx.save(model, str(file))


def _insert(model: onnx.ModelProto, activation: str, factor: Any, nodes: Sequence[Any]) -> Any:
    """Make the product with `factor` (channels,) and let `nodes` take it."""
    name = f"{activation}/smoothed"
    model.graph.initializer.append(numpy_helper.from_array(factor.astype(np.float32), f"{name}/factor"))
    for node in nodes:
        node.input[0] = name
    return helper.make_node("Mul", [activation, f"{name}/factor"], [name], name=name)


def _place(model: onnx.ModelProto, made: Mapping[str, Any]) -> None:
    """Put each product right behind the node that makes its activation: a graph is in topological order."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.append(node)
        model.graph.node.extend(made[name] for name in node.output if name in made)


def _largest_by_channel(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, Ids]]
) -> dict[str, Any]:
    """Run the graph on feeds; the largest |activation| of each channel, float32 (channels,)."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = ORT_ERROR
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]
    largest: dict[str, Any] = {}
    for feed in feeds:
        arrays = session.run(list(names), {each: feed[each] for each in inputs})
        for name, values in zip(names, arrays, strict=True):
            peak = np.abs(values).reshape(-1, values.shape[-1]).max(0)
            largest[name] = np.maximum(largest.get(name, 0), peak)
    return largest
