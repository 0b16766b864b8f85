"""The packed forms of a fused attention node."""

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, helper

from tuneport.errors import EngineError

from .editing import CONTRIB, EditableGraph, attribute

MakeAttention = Callable[[EditableGraph, NodeProto, str], list[NodeProto]]
"""Return the nodes, of a given name, that replace an `Attention` node of the graph."""


def packed_attention(graph: EditableGraph, node: NodeProto, name: str) -> list[NodeProto]:
    """Return a `PackedAttention`, which projects and attends."""
    _check(graph, node)
    inputs = [*node.input[:3], "token_offset", "cumulative_lengths"]
    packed = helper.make_node("PackedAttention", inputs, node.output[:1], name, domain=CONTRIB)
    packed.attribute.extend(each for each in node.attribute if each.name in ("num_heads", "scale"))
    return [packed]


def multi_head_attention(graph: EditableGraph, node: NodeProto, name: str) -> list[NodeProto]:
    """Return a projection and a `PackedMultiHeadAttention`.

    Queries, keys and values of a head are side by side, (tokens, heads, 3, size), which flash attention reads in place.
    """
    weights, bias = _check(graph, node)
    heads = attribute(node, "num_heads")
    size = weights.shape[1] // 3 // heads
    by_head = weights.reshape(-1, 3, heads, size).swapaxes(1, 2).reshape(weights.shape)
    bias_by_head = bias.reshape(3, heads, size).swapaxes(0, 1).reshape(-1)
    projection = [
        node.input[0],
        graph.add_initializer(f"{name}_weights", by_head),
        graph.add_initializer(f"{name}_bias", bias_by_head),
    ]
    shape = graph.add_initializer("heads_side_by_side", np.array([-1, heads, 3, size], np.int64))
    inputs = [f"{name}_qkv", "", "", "", "token_offset", "cumulative_lengths"]
    packed = helper.make_node(
        "PackedMultiHeadAttention", inputs, node.output[:1], name, domain=CONTRIB, num_heads=heads
    )
    packed.attribute.extend(each for each in node.attribute if each.name == "scale")
    return [
        helper.make_node("Gemm", projection, [f"{name}_projected"], f"{name}_projection"),
        helper.make_node("Reshape", [f"{name}_projected", shape], [f"{name}_qkv"], f"{name}_reshape"),
        packed,
    ]


def _check(graph: EditableGraph, node: NodeProto) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and bias; raises EngineError for attention that has no packed form."""
    weights, bias = (graph.initializer(name) for name in node.input[1:3])
    is_plain = not any(node.input[4:]) and not attribute(node, "unidirectional", 0)
    if weights is None or bias is None or not is_plain or attribute(node, "qkv_hidden_sizes"):
        raise EngineError(
            "its attention is causal, biased or of several sizes, which packing does not know", "choose other variants"
        )
    return weights, bias
