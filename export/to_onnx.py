"""A checkpoint to an fp32 ONNX graph, through Optimum.

Optimum's own validation logs a difference over its tolerance and calls the export a success, so it is off:
the gate (`export.gate`) is ours.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from optimum.exporters.onnx import export as convert
from optimum.exporters.tasks import TasksManager

import export.onnx_configs  # noqa: F401 -- registers what Optimum lacks
from export.checkpoint import Checkpoint
from export.files import CheckpointError
from export.manifest import Tensor

LARGEST_IN_ONE_FILE = 1_900_000_000
"""Bytes; protobuf ends at 2 GiB, and larger graphs keep their weights in a file beside them."""


def to_onnx(model: Any, checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Write the graph of a torch model into `folder`; returns its files' names, the graph first.

    Raises CheckpointError if Optimum cannot export the architecture.
    """
    if checkpoint.sizes:
        from export.generative_onnx import writer_to_onnx

        with _one_clear_line(checkpoint):
            return writer_to_onnx(model, checkpoint, folder)
    task = "text-classification" if checkpoint.task == "regression" else checkpoint.task
    with tempfile.TemporaryDirectory(dir=folder) as made:
        with _one_clear_line(checkpoint), quiet():
            kind = TasksManager.get_exporter_config_constructor(
                "onnx", model_type=model.config.model_type, task=task, library_name="transformers"
            )
            settings = kind(model.config)
            convert(model, settings, Path(made) / "model.onnx", opset=settings.DEFAULT_ONNX_OPSET)
        return save_graph(Path(made) / "model.onnx", folder / "model.onnx")


@contextlib.contextmanager
def _one_clear_line(checkpoint: Checkpoint) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:250]
        problem = f"Optimum cannot export {checkpoint.config.model_type} for {checkpoint.task} ({reason})"
        raise CheckpointError(problem, "use an architecture that it knows") from error


def save_graph(source: Path, file: Path, largest_in_one_file: int | None = None) -> list[str]:
    """Move a graph, its weights within it or, beyond the limit, in one file beside it; returns the files' names."""
    limit = LARGEST_IN_ONE_FILE if largest_in_one_file is None else largest_in_one_file
    outside = [path for path in source.parent.iterdir() if path != source and path.name.startswith(source.name)]
    if not outside and source.stat().st_size <= limit:
        source.replace(file)
        return [file.name]
    data = f"{file.name}_data"
    onnx.save_model(
        onnx.load(str(source)),
        str(file),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data,
        size_threshold=1024,
    )
    return [file.name, data]


def signature_of(file: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Read what goes in and what comes out of a model whose first graph is `file`."""
    from export.generative_onnx import WRITERS, writer_signature

    return writer_signature(file.parent) if (file.parent / WRITERS).is_file() else signature(file)


def signature(file: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
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
    """Silence what Optimum, torch's tracer and onnxruntime say about a graph that the gate will judge."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
