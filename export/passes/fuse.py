"""Fuse attention, layer normalization, GELU and similar subgraphs into single operators of onnxruntime."""

import tempfile
from pathlib import Path

from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import MODEL_TYPES, optimize_model

from ..graph import Graph, quiet, save_graph
from .context import BuildContext

FUSIONS = {"gpt2": "gpt2", "bart": "bart", "t5": "t5", "deberta": "bert", "deberta-v2": "bert"}
"""transformers' model type → onnxruntime's model type for fusion; other encoders are fused as `bert`."""


def fuse(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write the fused graph."""
    model_type = context.model_type
    fusion_type = FUSIONS.get(model_type, model_type if model_type in MODEL_TYPES else "bert")
    with tempfile.TemporaryDirectory(dir=folder) as scratch, quiet():
        model = optimize_model(
            str(graph.path),
            model_type=fusion_type,
            num_heads=context.num_heads,
            hidden_size=context.hidden_size,
            optimization_options=FusionOptions(fusion_type),
        )
        file = Path(scratch) / "fused.onnx"
        model.save_model_to_file(str(file), use_external_data_format=graph.has_external_data)
        return Graph(folder, save_graph(file, folder / "model.onnx"))
