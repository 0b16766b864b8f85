"""Convert to bf16, whose range is that of fp32, for GPUs; embeddings that are fused stay in fp32."""

import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers.onnx_model import OnnxModel

from ..graph import Graph, quiet, save_graph
from .context import BuildContext
from .editing import EditableGraph, attribute

FP32_ONLY = {"EmbedLayerNormalization"}
"""Operators without a kernel for bf16."""


def bf16(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write the graph in bf16, with inputs and outputs as they were."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch, quiet():
        model = to_bf16(onnx.load(str(graph.path)))
        file = Path(scratch) / "bf16.onnx"
        OnnxModel(model).save_model_to_file(str(file), use_external_data_format=graph.has_external_data)
        return Graph(folder, save_graph(file, folder / "model.onnx"))


def to_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in bf16; floats that enter or leave it are cast at its borders."""
    graph = EditableGraph(model)
    nodes = list(graph.nodes)
    for node in nodes:
        if node.op_type in FP32_ONLY:
            _cast_output(graph, node, TensorProto.BFLOAT16)
            continue
        for i, name in enumerate(node.input):
            values = graph.initializer(name)
            if values is not None and values.dtype == np.float32:
                node.input[i] = graph.add_initializer(f"{name}_bf16", _halved(values))
        _convert_attributes(node)
    for output in graph.proto.output:
        if output.type.tensor_type.elem_type == TensorProto.FLOAT:
            producer = graph.producer(output.name)
            assert producer is not None
            _rename_output(nodes, producer, output.name, f"{output.name}_bf16")
            cast = [f"{output.name}_bf16"], [output.name], f"cast_{output.name}"
            graph.add(helper.make_node("Cast", *cast, to=TensorProto.FLOAT))
    del graph.proto.value_info[:]
    return graph.finish()


def _cast_output(graph: EditableGraph, node: NodeProto, dtype: int) -> None:
    name = node.output[0]
    node.output[0] = f"{name}_fp32"
    graph.add(helper.make_node("Cast", [f"{name}_fp32"], [name], f"cast_{name}", to=dtype))


def _rename_output(nodes: list[NodeProto], producer: NodeProto, old: str, new: str) -> None:
    """Rename a tensor where it is computed and wherever it is used."""
    for i, name in enumerate(producer.output):
        if name == old:
            producer.output[i] = new
    for node in nodes:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _convert_attributes(node: NodeProto) -> None:
    """Convert what makes floats: casts, constants and filled tensors."""
    if node.op_type == "Cast" and attribute(node, "to") == TensorProto.FLOAT:
        next(each for each in node.attribute if each.name == "to").i = TensorProto.BFLOAT16
    if node.op_type in ("Constant", "ConstantOfShape"):
        for each in node.attribute:
            if each.name == "value" and each.t.data_type == TensorProto.FLOAT:
                each.t.CopyFrom(numpy_helper.from_array(_halved(numpy_helper.to_array(each.t)), each.t.name))


def _halved(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(ml_dtypes.bfloat16)
