"""Edit an ONNX graph: what depends on what, and nodes and initializers that come and go."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper
from onnxruntime.transformers.onnx_model import OnnxModel

CONTRIB = "com.microsoft"
"""The domain of onnxruntime's own operators."""


class EditableGraph:
    """A copy of a graph, with its nodes sorted."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Copy the model and sort its nodes."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        self._model = OnnxModel(copy)
        self._model.topological_sort()

    @property
    def proto(self) -> onnx.GraphProto:
        """The graph itself."""
        return self._model.model.graph

    @property
    def nodes(self) -> Sequence[NodeProto]:
        """All nodes, sorted but for those that were added."""
        return self.proto.node

    def descendants(self, names: Iterable[str]) -> set[str]:
        """Return the tensors that are computed from `names`, and these."""
        reached = set(names)
        for node in self.nodes:
            if reached & set(node.input):
                reached |= set(node.output)
        return reached

    def ancestors(self, name: str) -> list[NodeProto]:
        """Return the nodes that a tensor is computed by, the last one first."""
        needed, found = {name}, []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                found.append(node)
        return found

    def between(self, start: str, stop: str) -> list[NodeProto]:
        """Return the nodes on all ways from one tensor to another, the last one first."""
        after = self.descendants([start]) - {start}
        return [node for node in self.ancestors(stop) if after & set(node.output)]

    def producer(self, name: str) -> NodeProto | None:
        """Return the node that computes a tensor; None for inputs and initializers."""
        return next((node for node in self.nodes if name in node.output), None)

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Return the value of an initializer or of the output of a `Constant`; None for what is computed."""
        value: npt.NDArray[Any] | None = self._model.get_constant_value(name)
        return value

    def initializer(self, name: str) -> npt.NDArray[Any] | None:
        """Return the value of an initializer; None if there is none of this name."""
        initializer = self._model.get_initializer(name)
        return None if initializer is None else numpy_helper.to_array(initializer)

    def add_initializer(self, name: str, values: npt.NDArray[Any]) -> str:
        """Add an initializer, unless there is one of this name, and return the name."""
        if self._model.get_initializer(name) is None:
            self._model.add_initializer(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, *nodes: NodeProto) -> None:
        """Add nodes; `finish` sorts them in."""
        self.proto.node.extend(nodes)

    def remove(self, node: NodeProto) -> None:
        """Remove a node."""
        self.proto.node.remove(node)

    def finish(self) -> onnx.ModelProto:
        """Remove what no output needs, sort, declare the contrib domain, and return the model."""
        self._model.prune_graph()
        self._model.topological_sort()
        used = {name for node in self.nodes for name in node.input}
        for unused in [each for each in self.proto.input if each.name not in used]:
            self.proto.input.remove(unused)
        model: onnx.ModelProto = self._model.model
        if not any(each.domain == CONTRIB for each in model.opset_import):
            model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        return model


def replace_input(nodes: Iterable[NodeProto], old: str, new: str) -> None:
    """Let nodes take one tensor in place of another."""
    for node in nodes:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)
