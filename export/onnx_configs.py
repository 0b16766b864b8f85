"""Architectures that Optimum does not export by itself: XLNet, and our own pooling heads."""

from typing import Any

from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig
from transformers import AutoConfig

register = TasksManager.create_register("onnx")
AXES = {0: "batch_size", 1: "sequence_length"}


@register("xlnet", "feature-extraction", "text-classification", "token-classification", "question-answering")
class XLNetOnnxConfig(TextEncoderOnnxConfig):
    """XLNet without memories: one segment a row, padded on its left."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig.with_args(
        hidden_size="d_model", num_layers="n_layer", num_attention_heads="n_head"
    )

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Name the axes that vary."""
        return {"input_ids": AXES, "attention_mask": AXES, "token_type_ids": AXES}


@register("tuneport-pooled", "text-classification")
class PooledOnnxConfig(TextEncoderOnnxConfig):
    """An encoder under CLS, mean or attention pooling."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        """Take the encoder's own inputs from Optimum's configuration for it."""
        fields = dict(config.encoder)
        encoder = AutoConfig.for_model(fields.pop("model_type"), **fields)
        kind = TasksManager.get_exporter_config_constructor(
            "onnx", model_type=encoder.model_type, task="feature-extraction", library_name="transformers"
        )
        self._inputs = kind(encoder).inputs
        super().__init__(encoder, *args, **kwargs)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Name the axes that vary."""
        return self._inputs
