"""Fuse attention, layer normalization, GELU and similar subgraphs into single operators of onnxruntime."""

import tempfile
from pathlib import Path

from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model import OnnxModel
from onnxruntime.transformers.optimizer import MODEL_TYPES, optimize_model

from ..graph import Graph, quiet, save_graph
from .context import BuildContext
from .int32_inputs import with_int32_inputs

FUSIONS = {"gpt2": "gpt2", "bart": "bart", "t5": "t5", "deberta": "bert", "deberta-v2": "bert"}
"""transformers' model type → onnxruntime's model type for fusion; other encoders are fused as `bert`."""


def fuse(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write the fused graph; for GPUs attention has a kernel of its own (`Attention`) and ids are int32."""
    return _fuse(graph, context, folder, multi_head=False)


def fuse_multi_head(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write the fused graph with `MultiHeadAttention`, which has kernels for bf16."""
    return _fuse(graph, context, folder, multi_head=True)


def _fuse(graph: Graph, context: BuildContext, folder: Path, *, multi_head: bool) -> Graph:
    model_type = context.model_type
    fusion_type = FUSIONS.get(model_type, model_type if model_type in MODEL_TYPES else "bert")
    options = FusionOptions(fusion_type)
    options.use_multi_head_attention = multi_head
    is_for_gpu = context.device != "cpu"
    with tempfile.TemporaryDirectory(dir=folder) as scratch, quiet():
        model = optimize_model(
            str(graph.path),
            model_type=fusion_type,
            num_heads=context.num_heads,
            hidden_size=context.hidden_size,
            optimization_options=options,
            use_gpu=is_for_gpu,
            # onnxruntime's own optimizations would be those of this host's CPU.
            opt_level=0 if is_for_gpu else None,
        )
        if is_for_gpu:
            model = OnnxModel(with_int32_inputs(model.model))
        file = Path(scratch) / "fused.onnx"
        model.save_model_to_file(str(file), use_external_data_format=graph.has_external_data)
        return Graph(folder, save_graph(file, folder / "model.onnx"))
