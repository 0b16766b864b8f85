"""Convert an encoder to an fp32 ONNX graph with Optimum.

Optimum's validation only logs differences beyond its tolerance, so it is off: `gate.py` compares the graph with torch.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optimum.exporters.onnx import export as convert
from optimum.exporters.tasks import TasksManager

from tuneport.errors import CheckpointError
from tuneport.tasks import task_spec

from . import onnx_configs  # noqa: F401 -- registers further architectures
from .checkpoint import Checkpoint
from .graph import Graph, quiet, save_graph
from .torch_device import on_cpu


def encoder_to_onnx(model: Any, checkpoint: Checkpoint, folder: Path) -> Graph:
    """Write the graph of a torch encoder into `folder`.

    Raises CheckpointError if Optimum cannot export the architecture.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "model.onnx"
        with export_errors(checkpoint), quiet(), on_cpu(model):
            onnx_config_class = TasksManager.get_exporter_config_constructor(
                "onnx",
                model_type=model.config.model_type,
                task=task_spec(checkpoint.task).onnx_task,
                library_name="transformers",
            )
            onnx_config = onnx_config_class(model.config)
            convert(model, onnx_config, file, opset=onnx_config.DEFAULT_ONNX_OPSET)
        return Graph(folder, save_graph(file, folder / "model.onnx"))


@contextlib.contextmanager
def export_errors(checkpoint: Checkpoint) -> Iterator[None]:
    """Convert exceptions that Optimum raises for an architecture that it cannot export to a CheckpointError."""
    try:
        yield
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:250]
        problem = f"Optimum cannot export {checkpoint.config.model_type} for {checkpoint.task} ({reason})"
        raise CheckpointError(problem, "use an architecture that it knows") from error
