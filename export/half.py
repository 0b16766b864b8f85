"""An fp32 graph to fp16, but for the nodes whose activations fp16 cannot hold, found by a probe on the user's data."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.to_onnx import quiet, save_graph
from serve.ort import ORT_ERROR
from serve.tokenizer import Ids

HOLDS = float(np.finfo(np.float16).max) / 4
"""Largest |activation| that goes to fp16: a quarter of what it holds, as other texts may reach farther."""
PROBED = 4
"""Batches that the probe runs: every tensor of the graph is held in memory at once."""


def to_half(fp32: Path, folder: Path, feeds: Sequence[Mapping[str, Ids]]) -> list[str]:
    """Write the graph in fp16 with fp32 inputs and outputs; returns its files' names, the graph first."""
    model = onnx.load(str(fp32))
    kept = nodes_beyond_half(model, feeds[:PROBED])
    with tempfile.TemporaryDirectory(dir=folder) as made, quiet():
        half = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
        target = Path(made) / "half.onnx"
        onnx.save(half, str(target))
        return save_graph(target, folder / "model.onnx")


def nodes_beyond_half(model: onnx.ModelProto, feeds: Sequence[Mapping[str, Ids]]) -> list[str]:
    """Return the names of nodes that make, or take, an activation which fp16 cannot hold."""
    largest = _largest_activations(model, feeds)
    beyond = {name for name, value in largest.items() if not value <= HOLDS}
    return [node.name for node in model.graph.node if beyond & {*node.input, *node.output}]


def _largest_activations(model: onnx.ModelProto, feeds: Sequence[Mapping[str, Ids]]) -> dict[str, float]:
    """Run a copy of the graph that gives every tensor out; the largest finite or infinite |value| of each float one."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    given = {output.name for output in probe.graph.output}
    names = [name for node in probe.graph.node for name in node.output if name and name not in given]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = ORT_ERROR
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    largest: dict[str, float] = {}
    for feed in feeds:
        for name, values in zip(outputs, session.run(outputs, {each: feed[each] for each in inputs}), strict=True):
            if isinstance(values, np.ndarray) and values.dtype == np.float32 and values.size:
                # Masks add the lowest number of all to scores, on purpose; softmax wants it, fp16 clips it.
                shown = np.abs(values[values > np.finfo(np.float32).min / 2])
                largest[name] = max(largest.get(name, 0.0), float(shown.max(initial=0.0)))
    return largest
