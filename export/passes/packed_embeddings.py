"""Feed packed ids, token types and positions to a fused encoder's embeddings."""

import numpy as np
from onnx import NodeProto

from tuneport.errors import EngineError

from .editing import EditableGraph, attribute

WORDS, TYPES, POSITIONS = "word_embeddings", "token_type_embeddings", "position_embeddings"
"""Parts of the names that transformers gives to the tables."""
MASK = 7
"""Index of that input of `EmbedLayerNormalization`; the one behind it has the positions."""


def feed_packed_tokens(graph: EditableGraph) -> None:
    """Let the embeddings take `input_ids`, `token_type_ids` and `position_ids`, each (1, tokens).

    Raises EngineError for tables that it does not know.
    """
    fused = [node for node in graph.nodes if node.op_type == "EmbedLayerNormalization"]
    for node in fused:
        _feed_fused(node)
    if not fused:
        _feed_tables(graph)


def _feed_fused(node: NodeProto) -> None:
    inputs = ["input_ids", "token_type_ids" if node.input[1] else "", *node.input[2:MASK], "", "position_ids"]
    del node.input[:]
    node.input.extend(inputs)
    for each in [each for each in node.attribute if each.name == "mask_index_type"]:
        node.attribute.remove(each)


def _feed_tables(graph: EditableGraph) -> None:
    """Feed lookups that are not fused, such as RoBERTa's."""
    has_types = any(each.name == "token_type_ids" for each in graph.proto.input)
    found = set()
    for node in graph.nodes:
        if node.op_type != "Gather" or attribute(node, "axis", 0) != 0 or graph.initializer(node.input[0]) is None:
            continue
        table, index = node.input
        if WORDS in table:
            node.input[1] = "input_ids"
        elif TYPES in table:  # a model that takes no types gives all tokens the first one
            first = graph.add_initializer("first_type", np.zeros((1, 1), np.int64))
            node.input[1] = "token_type_ids" if has_types else first
        elif POSITIONS in table:
            node.input[0], node.input[1] = _from_first_position(graph, table, index), "position_ids"
        else:
            raise EngineError(f"it looks tokens up in {table}, which packing does not know", "choose other variants")
        found.add(next(part for part in (WORDS, TYPES, POSITIONS) if part in table))
    if not {WORDS, POSITIONS} <= found:
        raise EngineError("its embeddings are not tables of words and positions", "choose other variants")


def _from_first_position(graph: EditableGraph, table: str, index: str) -> str:
    """Return a table of positions that begins with that of a row's first token.

    RoBERTa and its kin add the padding id to a cumulative sum, which is 1 for the first token.
    """
    producer = graph.producer(index)
    if producer is None or producer.op_type != "Add":
        return table
    constants = [value for name in producer.input if (value := graph.constant(name)) is not None]
    values = graph.initializer(table)
    if len(constants) != 1 or constants[0].size != 1 or values is None:
        raise EngineError("it counts positions in a way that packing does not know", "choose other variants")
    return graph.add_initializer(f"{table}_from_first", values[int(constants[0]) + 1 :])
