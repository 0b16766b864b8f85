"""A checkpoint to an fp32 ONNX graph, through Optimum.

Optimum's own validation logs a difference over its tolerance and calls the export a success, so it is off:
the gate (`export.parity`) is ours.
"""

import contextlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
from optimum.exporters.onnx import main_export

from export.checkpoint import Checkpoint
from export.files import CheckpointError
from export.manifest import Tensor


def to_onnx(checkpoint: Checkpoint, file: Path) -> None:
    """Write `file`; a CheckpointError if Optimum cannot export the architecture."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        try:
            with quiet():
                main_export(
                    str(checkpoint.folder),
                    folder,
                    task=checkpoint.task,
                    dtype="fp32",
                    do_validation=False,
                    local_files_only=True,
                    trust_remote_code=checkpoint.trust_remote_code,
                    library_name="transformers",
                )
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:250]
            problem = f"Optimum cannot export {checkpoint.config.model_type} for {checkpoint.task} ({reason})"
            raise CheckpointError(problem, "use an architecture that it knows") from error
        shutil.move(Path(folder) / "model.onnx", file)


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
