"""Convert to fp16, except nodes whose activations on the user's data exceed the range of fp16."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.transformers.onnx_model import OnnxModel

from tuneport.runtime.backends.session import ORT_ERROR, Signature

from ..graph import Graph, quiet, save_graph
from .context import BuildContext, CalibrationBatches

MAX_ACTIVATION = float(np.finfo(np.float16).max) / 4
"""Largest |activation| of a node in fp16: a quarter of its range, because other inputs may exceed those of the data."""
PROBED_BATCHES = 4
"""Batches on which activations are measured, with all tensors of the graph in memory."""


def fp16(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write the graph in fp16, with inputs and outputs in fp32; nodes beyond the range of fp16 stay in fp32."""
    model = onnx.load(str(graph.path))
    excluded = nodes_beyond_fp16(model, context.calibration_batches[:PROBED_BATCHES])
    with tempfile.TemporaryDirectory(dir=folder) as scratch, quiet():
        # onnxruntime's shape inference also gives the types of its own operators, without which casts go missing.
        halved = OnnxModel(model)
        halved.convert_float_to_float16(keep_io_types=True, node_block_list=excluded)
        file = Path(scratch) / "fp16.onnx"
        halved.save_model_to_file(str(file), use_external_data_format=graph.has_external_data)
        return Graph(folder, save_graph(file, folder / "model.onnx"))


def nodes_beyond_fp16(model: onnx.ModelProto, batches: CalibrationBatches) -> list[str]:
    """Return the names of nodes that output, or take, an activation beyond `MAX_ACTIVATION`."""
    largest = _largest_activations(model, batches)
    beyond = {name for name, value in largest.items() if not value <= MAX_ACTIVATION}
    return [node.name for node in model.graph.node if beyond & {*node.input, *node.output}]


def _largest_activations(model: onnx.ModelProto, batches: CalibrationBatches) -> dict[str, float]:
    """Return the largest |value| of each float tensor, which may be infinite, from a copy that outputs all tensors."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    existing = {output.name for output in probe.graph.output}
    names = [name for node in probe.graph.node for name in node.output if name and name not in existing]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = ORT_ERROR
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = Signature(session).input_dtypes
    outputs = [each.name for each in session.get_outputs()]
    largest: dict[str, float] = {}
    for batch in batches:
        feeds = {each: np.asarray(batch[each], dtype) for each, dtype in inputs.items()}
        for name, values in zip(outputs, session.run(outputs, feeds), strict=True):
            if isinstance(values, np.ndarray) and values.dtype == np.float32 and values.size:
                # Attention masks add the lowest number to scores; fp16 clips it, and softmax gives 0 as before.
                magnitudes = np.abs(values[values > np.finfo(np.float32).min / 2])
                largest[name] = max(largest.get(name, 0.0), float(magnitudes.max(initial=0.0)))
    return largest
