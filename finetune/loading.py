"""Loads base models and tokenizers: from safetensors, without code of their repository unless the settings allow it."""

import contextlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel

from tuneport.errors import CheckpointError
from tuneport.modeling.heads import PooledClassifier, PooledConfig

from .config import FinetuneConfig
from .model_limits import check_sizes, cls_position

DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "dropout", "attention_dropout",
    "activation_dropout", "dropout_rate", "resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_last_dropout",
    "seq_classif_dropout", "qa_dropout", "mlp_dropout", "embedding_dropout", "pooler_dropout",
)  # fmt: skip
"""Names of dropout rates in the configurations of the architectures."""


@contextlib.contextmanager
def as_checkpoint_error(source: str) -> Iterator[None]:
    """Turn the many exceptions of transformers for a model that it cannot load into a CheckpointError."""
    remedy = "give a folder or hub name with config.json, model.safetensors and a tokenizer that fit the task"
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise CheckpointError(f"{source} has no config.json", remedy)
    if (Path(source) / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{source} has an adapter of peft, without its model",
            "merge it into the model with peft if its method allows that, or give the model",
        )
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:250]
        raise CheckpointError(f"{source} cannot be loaded for this task ({reason})", remedy) from error


def load_tokenizer(source: str, config: FinetuneConfig, **options: Any) -> Any:
    """Load a tokenizer, fast if possible; without a padding token the end token is used.

    `options` are those of the tokenizer's class.
    """
    with as_checkpoint_error(source):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=config.trust_remote_code, **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_aligned_tokenizer(source: str, config: FinetuneConfig, **options: Any) -> Any:
    """Load a tokenizer that maps tokens to words and characters, for tasks whose targets are positions.

    It pads on the right, since positions count from the left. Raises CheckpointError for a slow tokenizer.
    """
    tokenizer = load_tokenizer(source, config, padding_side="right", **options)
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"the tokenizer of {source} ({type(tokenizer).__name__}) does not return the characters of a token",
            f"{config.task} needs a model with a fast tokenizer (tokenizer.json)",
        )
    return tokenizer


def load_pretrained(
    auto_class: Any, source: str, config: FinetuneConfig, *, ignore_mismatched_sizes: bool = False, **options: Any
) -> PreTrainedModel:
    """Load a model by its Auto class, with the dropout of the settings; `options` are settings of its configuration.

    `ignore_mismatched_sizes` gives a head of another size new weights. Raises CheckpointError for a base model that
    does not fit the task.
    """
    with as_checkpoint_error(source):
        model_config = AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code)
        for name, value in {**_dropout_rates(_names(model_config), config), **options}.items():
            setattr(model_config, name, value)
        model = auto_class.from_pretrained(
            source,
            config=model_config,
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = model.config.eos_token_id
    return _set_dropout(model, config)


def is_pooled(source: str, config: FinetuneConfig) -> bool:
    """Tell whether a model has a pooling head of tuneport's."""
    with as_checkpoint_error(source):
        model_config = AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code)
    return bool(model_config.model_type == PooledConfig.model_type)


def load_pooled(source: str, config: FinetuneConfig, pooling: str | None, **options: Any) -> PreTrainedModel:
    """Load a model with a pooling head of tuneport's, or an encoder with a new one; `options` are settings of the head.

    `pooling` None keeps that of the model.
    """
    trust = config.trust_remote_code
    with as_checkpoint_error(source):
        if not is_pooled(source, config):
            encoder_config = AutoConfig.from_pretrained(source, trust_remote_code=trust)
            encoder_config.update(_dropout_rates(_names(encoder_config), config))
            model = PooledClassifier.from_encoder(
                source, str(pooling), encoder_config=encoder_config, trust_remote_code=trust, **options
            )
            model.config.cls_position = cls_position(model.encoder, load_tokenizer(source, config))
        else:
            model_config = PooledConfig.from_pretrained(source)
            encoder = {**model_config.encoder, **_dropout_rates(model_config.encoder, config)}
            for name, value in {**options, "pooling": pooling or model_config.pooling, "encoder": encoder}.items():
                setattr(model_config, name, value)
            model = PooledClassifier.from_pretrained(
                source, config=model_config, use_safetensors=True, ignore_mismatched_sizes=True
            )
    return _set_dropout(model, config)


def check_input_size(model: PreTrainedModel, source: str, config: FinetuneConfig) -> None:
    """Check that an encoder has an embedding for each token, and positions for max_length tokens and the prefix."""
    lengths = {"max_length": config.max_length}
    if config.strategy == "prefix":
        total = config.max_length + config.num_virtual_tokens
        lengths = {"max_length + num_virtual_tokens": total, **lengths}
    check_sizes(model, load_tokenizer(source, config), source, **lengths)


def _set_dropout(model: PreTrainedModel, config: FinetuneConfig) -> PreTrainedModel:
    """Set the rate of every dropout layer to that of the settings, if they have one.

    Some heads have a fixed rate that no configuration names, such as those of Llama and GPT-2 for tokens.
    """
    if config.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout
    return model


def _names(model_config: PretrainedConfig) -> set[str]:
    return {*model_config.to_dict(), *model_config.attribute_map}


def _dropout_rates(names: Container[str], config: FinetuneConfig) -> dict[str, float]:
    """Return those `names` of a configuration that are dropout rates, with that of the settings; {} if they have none.

    Attention takes its rate from the configuration, and has no layer for it.
    """
    if config.dropout is None:
        return {}
    return {name: config.dropout for name in DROPOUTS if name in names}
