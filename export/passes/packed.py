"""Rewrite a fused encoder so that a batch has no padding: all tokens in a row, with the rows' cumulative lengths.

onnxruntime's own conversion (`convert_to_packing_mode`) removes the padding within the graph, which makes the host wait
for the device. Here the server feeds the packed tokens, so that padding is neither transferred nor computed; the inputs
are those of `tuneport.runtime.batch.packed_batch`. The kernels exist for CUDA alone, in fp32 and fp16.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper
from onnxruntime.transformers.onnx_model import OnnxModel

from tuneport.errors import EngineError

from ..graph import Graph, quiet, save_graph
from .context import BuildContext
from .editing import CONTRIB, EditableGraph, attribute, replace_input
from .packed_attention import MakeAttention, multi_head_attention, packed_attention
from .packed_embeddings import feed_packed_tokens

REMEDY = "choose other variants"
LAYER_NORMS = {"LayerNormalization", "SkipLayerNormalization"}
TOKENWISE = LAYER_NORMS | {"Add", "BiasGelu", "Cast", "FastGelu", "Gelu", "Gemm", "MatMul", "Mul", "Relu", "Tanh"}
"""Operators that treat each token alone, so that it does not matter how tokens are laid out."""
EMBEDDING = {"Constant", "EmbedLayerNormalization", "Gather"}
"""Further operators of embeddings."""
SPLITS_FEATURES = {"Split", "Squeeze"}
"""Operators of heads that treat each token alone if their axis is the last one."""
INPUTS: dict[str, tuple[int, tuple[int | str, ...]]] = {
    "input_ids": (TensorProto.INT32, (1, "tokens")),
    "token_type_ids": (TensorProto.INT32, (1, "tokens")),
    "position_ids": (TensorProto.INT32, (1, "tokens")),
    "token_offset": (TensorProto.INT32, ("rows", "longest")),
    "cumulative_lengths": (TensorProto.INT32, ("rows_and_one",)),
    "row_starts": (TensorProto.INT32, ("rows",)),
    "attention_mask": (TensorProto.INT64, ("rows", "longest")),
}


def packed(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write the packed graph, with `PackedAttention`."""
    return _write(graph, context, folder, packed_attention)


def packed_multi_head(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write the packed graph, with `PackedMultiHeadAttention`."""
    return _write(graph, context, folder, multi_head_attention)


def _write(graph: Graph, context: BuildContext, folder: Path, make_attention: MakeAttention) -> Graph:
    with tempfile.TemporaryDirectory(dir=folder) as scratch, quiet():
        model = pack(onnx.load(str(graph.path)), make_attention, per_token=context.per_token)
        file = Path(scratch) / "packed.onnx"
        OnnxModel(model).save_model_to_file(str(file), use_external_data_format=graph.has_external_data)
        return Graph(folder, save_graph(file, folder / "model.onnx"))


def pack(model: onnx.ModelProto, make_attention: MakeAttention, *, per_token: bool) -> onnx.ModelProto:
    """Return the packed form of a fused graph; `per_token` says whether outputs have a value for each token.

    Raises EngineError for a graph whose attention is not fused, or in which tokens of different rows may meet.
    """
    graph = EditableGraph(model)
    attentions = [node for node in graph.nodes if node.op_type == "Attention"]
    if not attentions:
        raise EngineError("its attention is not fused, which packing needs", REMEDY)
    embedded, states = attentions[0].input[0], _last_states(graph, attentions[-1])
    layers = graph.between(embedded, states)
    _check_operators(layers, TOKENWISE | {"Attention"}, "layers")
    feed_packed_tokens(graph)
    _check_operators(graph.ancestors(embedded), TOKENWISE | EMBEDDING, "embeddings")
    if per_token:
        _feed_tokens_to_head(graph, states)
    else:
        _feed_rows_to_head(graph, states)
    _drop_axis_of_rows(graph, embedded, layers)
    for number, node in enumerate(attentions):
        graph.add(*make_attention(graph, node, f"packed_attention_{number}"))
        graph.remove(node)
    _declare_inputs_and_outputs(graph)
    return graph.finish()


def _last_states(graph: EditableGraph, attention: NodeProto) -> str:
    """Return the hidden states of the last layer: what the last layer normalization after its attention outputs."""
    after = graph.descendants(attention.output[:1])
    norms = [node for node in graph.nodes if node.op_type in LAYER_NORMS and node.output[0] in after]
    if not norms:
        raise EngineError("its last layer has no layer normalization", REMEDY)
    return norms[-1].output[0]


def _check_operators(nodes: list[NodeProto], known: set[str], part: str) -> None:
    """Raise EngineError for an operator by which tokens of different rows could meet."""
    if foreign := {node.op_type for node in nodes} - known:
        raise EngineError(f"its {part} have {', '.join(sorted(foreign))}, which packing does not know", REMEDY)


def _drop_axis_of_rows(graph: EditableGraph, embedded: str, layers: list[NodeProto]) -> None:
    """Embeddings are (1, tokens, hidden), and the packed kernels take (tokens, hidden)."""
    axis = graph.add_initializer("axis_of_rows", np.array([0], np.int64))
    replace_input(layers, embedded, f"{embedded}_packed")
    graph.add(helper.make_node("Squeeze", [embedded, axis], [f"{embedded}_packed"], "drop_axis_of_rows"))


def _feed_tokens_to_head(graph: EditableGraph, states: str) -> None:
    """Give all tokens to a head that treats each alone; its axes count from the end, because one axis is gone."""
    after = graph.descendants([states]) - {states}
    head = [node for node in graph.nodes if after & set(node.output)]
    _check_operators(head, TOKENWISE | SPLITS_FEATURES, "head")
    for node in head:
        if node.op_type == "Squeeze":
            node.input[1] = graph.add_initializer("last_axis", np.array([-1], np.int64))
        if node.op_type == "Split":
            next(each for each in node.attribute if each.name == "axis").i = -1


def _feed_rows_to_head(graph: EditableGraph, states: str) -> None:
    """Give the first token of each row to a head that takes no other, else the padded states."""
    after = graph.descendants([states]) - {states}
    consumers = [node for node in graph.nodes if states in node.input and after & set(node.output)]
    if all(_takes_first_token(graph, node) for node in consumers):
        for number, node in enumerate(consumers):
            graph.remove(node)
            graph.add(helper.make_node("Gather", [states, "row_starts"], node.output, f"first_tokens_{number}", axis=0))
        return
    replace_input(consumers, states, "padded_states")
    inputs = [states, "token_offset"]
    graph.add(helper.make_node("RestorePadding", inputs, ["padded_states"], "restore_padding", domain=CONTRIB))


def _takes_first_token(graph: EditableGraph, node: NodeProto) -> bool:
    if node.op_type != "Gather" or attribute(node, "axis", 0) != 1:
        return False
    index = graph.constant(node.input[1])
    return index is not None and index.shape == () and int(index) == 0


def _declare_inputs_and_outputs(graph: EditableGraph) -> None:
    """Replace the signature; `finish` removes inputs that the graph does not take."""
    proto = graph.proto
    del proto.value_info[:], proto.input[:]
    proto.input.extend(helper.make_tensor_value_info(name, *signature) for name, signature in INPUTS.items())
    for output in proto.output:
        kind = output.type.tensor_type
        axes: list[int | str] = [axis.dim_value or "tokens" for axis in kind.shape.dim][1:]
        if "tokens" not in axes:
            axes.insert(0, "rows")
        output.CopyFrom(helper.make_tensor_value_info(output.name, kind.elem_type, axes))
