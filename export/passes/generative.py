"""Give a generative model's graphs a lower precision: fp16, or weights in int8 or int4."""

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.onnx_model import OnnxModel

from tuneport.errors import EngineError

from ..generative.to_onnx import CONFIGURATIONS, GRAPHS
from ..graph import Graph, quiet, save_graph
from .context import BuildContext

BLOCK_SIZE = 32
"""Number of int4 weights that share a scale."""
ACCURACY_LEVEL_INT8 = 4
"""Accuracy level of MatMulNBits that computes in int8, which is fast on CPUs."""
Convert = Callable[[Path, Path], None]


def generative_int8(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Quantize the weights of matrix products to int8; activations are quantized dynamically."""
    return _convert_graphs(graph, folder, functools.partial(_to_int8, reduce_range=context.reduce_range))


def generative_fp16(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write the graphs in fp16, past key values included, so that half as much is kept on the device.

    An encoder–decoder is exported again, from torch's weights in fp16: conversion does not reach into both branches of
    its decoder. Raises EngineError where that is not possible.
    """
    if "model.onnx" in graph.files:
        return _convert_graphs(graph, folder, _to_fp16)
    if context.export_fp16 is None:
        raise EngineError("its torch model is not at hand", "choose other variants")
    return context.export_fp16(folder)


def generative_int4(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Quantize the weights of matrix products to int4, with a scale for each block of `BLOCK_SIZE`."""
    return _convert_graphs(graph, folder, _to_int4)


def _convert_graphs(graph: Graph, folder: Path, convert: Convert) -> Graph:
    """Convert every graph and copy the configurations."""
    names: list[str] = []
    for name in graph.files:
        if name in GRAPHS:
            with tempfile.TemporaryDirectory(dir=folder) as scratch, quiet():
                convert(graph.folder / name, Path(scratch) / name)
                names += save_graph(Path(scratch) / name, folder / name)
        elif name in CONFIGURATIONS:
            shutil.copyfile(graph.folder / name, folder / name)
            names.append(name)
    return Graph(folder, tuple(names))


def _to_int8(source: Path, target: Path, *, reduce_range: bool) -> None:
    quantize_dynamic(
        str(source),
        str(target),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
        use_external_data_format=(source.parent / f"{source.name}_data").is_file(),
        # The layers of a merged decoder are in the two branches of an If.
        extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def _to_fp16(source: Path, target: Path) -> None:
    model = OnnxModel(onnx.load(str(source)))
    model.convert_float_to_float16(keep_io_types=False)
    model.save_model_to_file(str(target), (source.parent / f"{source.name}_data").is_file())


def _to_int4(source: Path, target: Path) -> None:
    model = onnx.load(str(source))
    _split_gemms(model.graph)
    quantizer = MatMulNBitsQuantizer(
        model, block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=ACCURACY_LEVEL_INT8
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), (source.parent / f"{source.name}_data").is_file())


def _split_gemms(graph: onnx.GraphProto) -> None:
    """Replace `Gemm(a, b, c)` by `a @ b + c`: int4 quantizes only MatMul, and GPT-2 has Gemm."""
    nodes = []
    for node in graph.node:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        is_transposed = any(attributes.get(name) for name in ("transA", "transB"))
        if node.op_type != "Gemm" or len(node.input) != 3 or is_transposed:
            nodes.append(node)
            continue
        a, b, c = node.input
        product = f"{node.output[0]}_product"
        nodes.append(onnx.helper.make_node("MatMul", [a, b], [product], name=f"{node.name}_MatMul"))
        nodes.append(onnx.helper.make_node("Add", [product, c], list(node.output), name=f"{node.name}_Add"))
    del graph.node[:]
    graph.node.extend(nodes)
