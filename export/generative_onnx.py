"""A model that writes to ONNX through Optimum, and its graphs to int8 and int4.

An encoder–decoder becomes two graphs, encoder and merged decoder (one that can go on from past key values or begin
without), a decoder alone becomes one. Beside them stand the two configurations that Optimum reads.
"""

import copy
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from optimum.exporters.onnx import onnx_export_from_model

from export.checkpoint import Checkpoint
from export.manifest import Tensor
from export.to_onnx import quiet, save_graph, signature

TASKS = {
    "translation": "text2text-generation-with-past",
    "summarization": "text2text-generation-with-past",
    "text-generation": "text-generation-with-past",
    "automatic-speech-recognition": "automatic-speech-recognition-with-past",
}
"""Task → Optimum's name for it."""
GRAPHS = ("encoder_model.onnx", "decoder_model_merged.onnx", "model.onnx")
SETTINGS = ("config.json", "generation_config.json")
WRITERS = SETTINGS[1]
"""The file that only graphs of models that write have beside them."""
BLOCK = 32
"""Weights that share a scale in int4."""
INT8_SUMS = 4
"""MatMulNBits' accuracy level that multiplies in int8, the fast one on CPUs."""


def writer_to_onnx(model: Any, checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Write the graphs of a torch model and its settings into `folder`; returns the files' names, a graph first."""
    shapes = {"nb_max_frames": 2 * checkpoint.max_length} if checkpoint.extractor is not None else {}
    with tempfile.TemporaryDirectory(dir=folder) as made, quiet():
        # Optimum changes the configuration of what it exports, after which torch cannot generate.
        onnx_export_from_model(copy.deepcopy(model), made, task=TASKS[checkpoint.task], do_validation=False, **shapes)
        files: list[str] = []
        for name in GRAPHS:
            if (Path(made) / name).is_file():
                files += save_graph(Path(made) / name, folder / name)
        for name in SETTINGS:
            shutil.copyfile(Path(made) / name, folder / name)
        return [*files, *SETTINGS]


def writer_signature(folder: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Read what goes into the first graph and what comes out of the last, past key values left aside."""
    graphs = [folder / name for name in GRAPHS if (folder / name).is_file()]
    inputs, outputs = signature(graphs[0])[0], signature(graphs[-1])[1]
    return tuple(each for each in inputs if "past" not in each.name), tuple(
        each for each in outputs if "present" not in each.name
    )


def quantize_writer(fp32: Path, files: Sequence[str], folder: Path, *, reduce_range: bool = False) -> list[str]:
    """Write every graph with int8 weights in its matrix products; activations are quantized as they come."""
    return _each_graph(fp32.parent, files, folder, functools.partial(_to_int8, reduce_range=reduce_range))


def quantize_writer_int4(fp32: Path, files: Sequence[str], folder: Path) -> list[str]:
    """Write every graph with the weights of its matrix products in int4, with a scale for each 32."""
    return _each_graph(fp32.parent, files, folder, _to_int4)


def _each_graph(source: Path, files: Sequence[str], folder: Path, quantize: Any) -> list[str]:
    names: list[str] = []
    for name in files:
        if name in GRAPHS:
            with tempfile.TemporaryDirectory(dir=folder) as made, quiet():
                quantize(source / name, Path(made) / name)
                names += save_graph(Path(made) / name, folder / name)
        elif name in SETTINGS:
            shutil.copyfile(source / name, folder / name)
            names.append(name)
    return names


def _to_int8(graph: Path, target: Path, *, reduce_range: bool) -> None:
    quantize_dynamic(
        str(graph),
        str(target),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
        use_external_data_format=(graph.parent / f"{graph.name}_data").is_file(),
        # The merged decoder keeps its layers in the two branches of an If.
        extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def _to_int4(graph: Path, target: Path) -> None:
    model = onnx.load(str(graph))
    _split_gemms(model.graph)
    quantizer = MatMulNBitsQuantizer(model, block_size=BLOCK, is_symmetric=True, accuracy_level=INT8_SUMS)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), (graph.parent / f"{graph.name}_data").is_file())


def _split_gemms(graph: onnx.GraphProto) -> None:
    """Turn `Gemm(a, b, c)` into `a @ b + c`: GPT-2's layers are the former, and int4 knows only the latter."""
    nodes = []
    for node in graph.node:
        settings = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type != "Gemm" or len(node.input) != 3 or any(settings.get(name) for name in ("transA", "transB")):
            nodes.append(node)
            continue
        a, b, c = node.input
        product = f"{node.output[0]}_product"
        nodes.append(onnx.helper.make_node("MatMul", [a, b], [product], name=f"{node.name}_MatMul"))
        nodes.append(onnx.helper.make_node("Add", [product, c], list(node.output), name=f"{node.name}_Add"))
    del graph.node[:]
    graph.node.extend(nodes)
