"""Choose the ONNX export configuration of an encoder: Optimum's if it knows the architecture, else a general one."""

from collections.abc import Mapping
from typing import Any

import torch
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig
from transformers import PretrainedConfig

from tuneport.modeling.heads import encoder_config

AXES = {0: "batch_size", 1: "sequence_length"}


class TextOnnxConfig(TextEncoderOnnxConfig):
    """Any model of token ids, exported as torch traces it; the gate shows whether that is faithful."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig
    inputs: dict[str, dict[int, str]] = {}  # noqa: RUF012 -- those of the checkpoint replace them


def onnx_config(config: PretrainedConfig, task: str, example: Mapping[str, torch.Tensor]) -> Any:
    """Return the configuration for a graph of a model with exactly the inputs of `example`, int64 (rows, tokens).

    `task` is Optimum's name of it. A pooling head of tuneport's is exported as its encoder is.
    """
    encoder = encoder_config(config)
    known = TasksManager._SUPPORTED_MODEL_TYPE.get(encoder.model_type, {}).get("onnx", {})
    constructor = known.get(task) or known.get("feature-extraction")
    kind = constructor.func if constructor else TextOnnxConfig
    inputs = {name: AXES for name in example}

    def dummy_inputs(_: Any, framework: str = "pt", **kwargs: Any) -> dict[str, Any]:
        """Return the example in place of random tokens, which models refuse that look for the end token."""
        return {name: values.numpy() if framework == "np" else values for name, values in example.items()}

    members = {"inputs": property(lambda _: dict(inputs)), "generate_dummy_inputs": dummy_inputs}
    return type(kind.__name__, (kind,), members)(encoder, task=task)
