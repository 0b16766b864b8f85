"""Convert an encoder to an fp32 ONNX graph with Optimum.

Optimum's validation only logs differences beyond its tolerance, so it is off: `gate.py` compares the graph with torch.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from optimum.exporters.onnx import export as convert

from tuneport.errors import CheckpointError, TuneportError
from tuneport.tasks import task_spec

from .architectures import other_architecture
from .checkpoint import Checkpoint
from .graph import Graph, quiet, save_graph
from .inputs import input_names
from .onnx_configs import onnx_config
from .torch_device import on_cpu

EXAMPLE = "a b c d e f g h"


def encoder_to_onnx(model: Any, checkpoint: Checkpoint, folder: Path) -> Graph:
    """Write the graph of a torch encoder into `folder`; its inputs are those that the checkpoint gets in torch.

    Raises CheckpointError if the architecture cannot be exported.
    """
    names = input_names(model, checkpoint.tokenizer)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "model.onnx"
        with export_errors(checkpoint), quiet(), on_cpu(model):
            example = {name: values for name, values in _example(checkpoint).items() if name in names}
            config = onnx_config(model.config, task_spec(checkpoint.task).onnx_task, example)
            convert(model, config, file, opset=config.DEFAULT_ONNX_OPSET)
        return Graph(folder, save_graph(file, folder / "model.onnx"))


def _example(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return two texts of one length as tensors, int64 (2, tokens), for the tracer."""
    options = {"truncation": True, "max_length": checkpoint.max_length, "return_tensors": "pt"}
    return dict(checkpoint.tokenizer([EXAMPLE] * 2, return_attention_mask=True, **options))


@contextlib.contextmanager
def _silent_tracer() -> Iterator[None]:
    """Keep torch's tracer, which enables its own log, from printing the graph of a model that fails to stdout."""
    torch._C._jit_set_onnx_log_enabled(False)
    with mock.patch.object(torch._C, "_jit_set_onnx_log_enabled"):
        yield


@contextlib.contextmanager
def export_errors(checkpoint: Checkpoint) -> Iterator[None]:
    """Convert what Optimum and torch's tracer raise for an architecture into a CheckpointError."""
    try:
        with _silent_tracer():
            yield
    except (TuneportError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:250]
        problem = f"{checkpoint.config.model_type} cannot be exported for {checkpoint.task} ({reason})"
        raise CheckpointError(problem, other_architecture(checkpoint.task)) from error
