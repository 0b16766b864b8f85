"""Transformer graph optimization by onnxruntime: attention, layer norm, GELU and their kin as single operators."""

import tempfile
from pathlib import Path

from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import MODEL_TYPES, optimize_model

from export.to_onnx import quiet, save_graph

KINDS = {"gpt2": "gpt2", "bart": "bart", "t5": "t5", "deberta": "bert", "deberta-v2": "bert"}
"""Architecture → kind of fusion; `bert` for encoders."""


def fuse(fp32: Path, folder: Path, model_type: str, heads: int, hidden: int) -> list[str]:
    """Write the fused graph; returns its files' names."""
    kind = KINDS.get(model_type, model_type if model_type in MODEL_TYPES else "bert")
    options = FusionOptions(kind)
    with tempfile.TemporaryDirectory(dir=folder) as made, quiet():
        model = optimize_model(
            str(fp32), model_type=kind, num_heads=heads, hidden_size=hidden, optimization_options=options
        )
        target = Path(made) / "fused.onnx"
        split = any(path.name.startswith(f"{fp32.name}_") for path in fp32.parent.iterdir())
        model.save_model_to_file(str(target), use_external_data_format=split)
        return save_graph(target, folder / "model.onnx")
