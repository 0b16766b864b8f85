"""Choose the ONNX export configuration of an encoder: Optimum's if it knows the architecture, else a general one."""

from collections.abc import Sequence
from typing import Any

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


def onnx_config(config: PretrainedConfig, task: str, names: Sequence[str]) -> Any:
    """Return the configuration for a graph of a model with exactly the inputs `names`; `task` is Optimum's name of it.

    A pooling head of tuneport's is exported as its encoder is.
    """
    encoder = encoder_config(config)
    known = TasksManager._SUPPORTED_MODEL_TYPE.get(encoder.model_type, {}).get("onnx", {})
    constructor = known.get(task) or known.get("feature-extraction")
    kind = constructor.func if constructor else TextOnnxConfig
    inputs = {name: AXES for name in names}
    return type(kind.__name__, (kind,), {"inputs": property(lambda _: dict(inputs))})(encoder, task=task)
