"""Convert a generative model to ONNX with Optimum.

An encoder–decoder becomes two graphs: the encoder, and a merged decoder, which runs with or without past key values. A
decoder-only model becomes one graph. Optimum's runtime also needs the two configuration files.
"""

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from optimum.exporters.onnx import onnx_export_from_model

from tuneport.tasks import task_spec

from ..checkpoint import Checkpoint
from ..graph import Graph, Signature, quiet, read_signature, save_graph
from ..to_onnx import export_errors
from ..torch_device import on_cpu

GRAPHS = ("encoder_model.onnx", "decoder_model_merged.onnx", "model.onnx")
CONFIGURATIONS = ("config.json", "generation_config.json")


def generative_to_onnx(model: Any, checkpoint: Checkpoint, folder: Path) -> Graph:
    """Write the graphs of a torch model and its configurations into `folder`.

    Raises CheckpointError if Optimum cannot export the architecture.
    """
    shapes = {"nb_max_frames": 2 * checkpoint.max_length} if checkpoint.extractor is not None else {}
    task = task_spec(checkpoint.task).onnx_task
    with tempfile.TemporaryDirectory(dir=folder) as scratch, export_errors(checkpoint), quiet(), on_cpu(model):
        # Optimum changes the configuration of the exported model, which then cannot generate in torch.
        onnx_export_from_model(copy.deepcopy(model), scratch, task=task, do_validation=False, **shapes)
        files: list[str] = []
        for name in GRAPHS:
            if (Path(scratch) / name).is_file():
                files += save_graph(Path(scratch) / name, folder / name)
        for name in CONFIGURATIONS:
            shutil.copyfile(Path(scratch) / name, folder / name)
    return Graph(folder, (*files, *CONFIGURATIONS))


def generative_signature(graph: Graph) -> Signature:
    """Read the inputs of the first graph and the outputs of the last one, without past key values."""
    graphs = [graph.folder / name for name in graph.files if name in GRAPHS]
    inputs, outputs = read_signature(graphs[0])[0], read_signature(graphs[-1])[1]
    return tuple(each for each in inputs if "past" not in each.name), tuple(
        each for each in outputs if "present" not in each.name
    )
