"""Register ONNX export configurations that Optimum lacks: XLNet and this project's pooling heads."""

from typing import Any

from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig

from tuneport.modeling.heads import encoder_config

register = TasksManager.create_register("onnx")
AXES = {0: "batch_size", 1: "sequence_length"}


@register("xlnet", "feature-extraction", "text-classification", "token-classification", "question-answering")
class XLNetOnnxConfig(TextEncoderOnnxConfig):
    """XLNet without memories: each row is one segment, padded on the left."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig.with_args(
        hidden_size="d_model", num_layers="n_layer", num_attention_heads="n_head"
    )

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Return the inputs, each with the names of its dynamic axes."""
        return {"input_ids": AXES, "attention_mask": AXES, "token_type_ids": AXES}


@register("tuneport-pooled", "text-classification")
class PooledOnnxConfig(TextEncoderOnnxConfig):
    """An encoder under CLS, mean or attention pooling."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        """Copy the inputs from Optimum's configuration of the encoder."""
        encoder = encoder_config(config)
        encoder_onnx_config = TasksManager.get_exporter_config_constructor(
            "onnx", model_type=encoder.model_type, task="feature-extraction", library_name="transformers"
        )
        self._inputs = encoder_onnx_config(encoder).inputs
        super().__init__(encoder, *args, **kwargs)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Return the inputs, each with the names of its dynamic axes."""
        return self._inputs
