"""Save ONNX graphs, list their files and read their signatures."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from tuneport.schema.artifact import Tensor

LARGEST_IN_ONE_FILE = 1_900_000_000
"""Bytes. Protobuf messages end at 2 GiB, so larger graphs keep their weights in a second file."""
Signature = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Inputs and outputs of a graph."""


@dataclass(frozen=True)
class Graph:
    """The graph, or graphs, of a model: a folder and the files that belong to the model."""

    folder: Path
    files: tuple[str, ...]
    """Names of the files; the graph that an engine opens is the first."""

    @property
    def path(self) -> Path:
        """Locate the first graph."""
        return self.folder / self.files[0]

    @property
    def has_external_data(self) -> bool:
        """Whether weights are in a file of their own."""
        return any(name.endswith(("_data", ".data")) for name in self.files)


def save_graph(source: Path, file: Path, largest_in_one_file: int | None = None) -> tuple[str, ...]:
    """Move a graph to `file` and return the names of its files.

    Weights stay within the graph up to `largest_in_one_file` bytes; beyond that they go to one file beside it.
    """
    limit = LARGEST_IN_ONE_FILE if largest_in_one_file is None else largest_in_one_file
    outside = [path for path in source.parent.iterdir() if path != source and path.name.startswith(source.name)]
    if not outside and source.stat().st_size <= limit:
        source.replace(file)
        return (file.name,)
    data = f"{file.name}_data"
    onnx.save_model(
        onnx.load(str(source)),
        str(file),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data,
        size_threshold=1024,
    )
    return (file.name, data)


def read_signature(file: Path) -> Signature:
    """Read the inputs and outputs of a graph: names, dtypes and axes."""
    graph = onnx.load(str(file), load_external_data=False).graph
    return tuple(map(_tensor, graph.input)), tuple(map(_tensor, graph.output))


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    axes = tuple(axis.dim_param or axis.dim_value for axis in kind.shape.dim)
    return Tensor(name=value.name, dtype=dtype, axes=axes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of Optimum, torch's tracer and onnxruntime: the gate checks every graph."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
