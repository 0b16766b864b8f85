"""Loading base models and tokenizers: safetensors only, no foreign code unless asked for, one clear line on failure."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from export.files import CheckpointError
from finetune.config import FinetuneConfig
from finetune.heads import PooledClassifier, PooledConfig
from finetune.sizes import check_sizes

DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "dropout", "attention_dropout",
    "activation_dropout", "dropout_rate", "resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_last_dropout",
    "seq_classif_dropout", "qa_dropout", "mlp_dropout", "embedding_dropout", "pooler_dropout",
)  # fmt: skip
"""What the families call their dropout rates."""


@contextlib.contextmanager
def one_clear_line(source: str) -> Iterator[None]:
    """Turn what transformers raises for a model that it cannot load into a CheckpointError."""
    remedy = "give a folder or hub name with config.json, model.safetensors and a tokenizer that fit the task"
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise CheckpointError(f"{source} has no config.json", remedy)
    if (Path(source) / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{source} holds what peft has trained beside a model, and not the model",
            "merge it into its model with peft, where that can be done, or give that model",
        )
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:250]
        raise CheckpointError(f"{source} cannot be loaded for this task ({reason})", remedy) from error


def load_tokenizer(source: str, config: FinetuneConfig, **options: Any) -> Any:
    """Load a tokenizer, fast where there is one; one without a padding token pads with its end token.

    `options` are the tokenizer's own.
    """
    with one_clear_line(source):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=config.trust_remote_code, **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_aligned_tokenizer(source: str, config: FinetuneConfig, **options: Any) -> Any:
    """Load a tokenizer for tasks whose targets are positions: it says which word and characters a token stands for.

    It pads on the right, since positions count from the left. Raises CheckpointError for a slow tokenizer.
    """
    tokenizer = load_tokenizer(source, config, padding_side="right", **options)
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"the tokenizer of {source} ({type(tokenizer).__name__}) does not say which characters a token stands for",
            f"{config.task} needs a model with a fast tokenizer (tokenizer.json)",
        )
    return tokenizer


def load_pretrained(kind: Any, source: str, config: FinetuneConfig, **options: Any) -> PreTrainedModel:
    """Load `kind` (an Auto class) from safetensors, with the settings' dropout; `options` go to its configuration.

    Raises CheckpointError for a base model that cannot do the task.
    """
    with one_clear_line(source):
        model_config = AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code)
        for name in dropouts_of(model_config, config):
            setattr(model_config, name, config.dropout)
        loading = {"use_safetensors": True, "trust_remote_code": config.trust_remote_code}
        if "ignore_mismatched_sizes" in options:
            loading["ignore_mismatched_sizes"] = options.pop("ignore_mismatched_sizes")
        for name, value in options.items():
            setattr(model_config, name, value)
        model = kind.from_pretrained(source, config=model_config, **loading)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = model.config.eos_token_id
    return model


def is_pooled(source: str, config: FinetuneConfig) -> bool:
    """Tell whether a model is one whose token states we have pooled."""
    with one_clear_line(source):
        model_config = AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code)
    return bool(model_config.model_type == PooledConfig.model_type)


def load_pooled(source: str, config: FinetuneConfig, pooling: str | None, **options: Any) -> PreTrainedModel:
    """Load what we have pooled, or put such a head on an encoder; `options` go to its configuration."""
    trusted: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if not is_pooled(source, config):
        with one_clear_line(source):
            return with_dropout(PooledClassifier.from_encoder(source, str(pooling), **trusted, **options), config)
    with one_clear_line(source):
        model_config = PooledConfig.from_pretrained(source)
        for name, value in {**options, "pooling": pooling or model_config.pooling}.items():
            setattr(model_config, name, value)
        model = PooledClassifier.from_pretrained(
            source, config=model_config, use_safetensors=True, ignore_mismatched_sizes=True
        )
    return with_dropout(model, config)


def check_input(model: PreTrainedModel, source: str, config: FinetuneConfig) -> None:
    """Check that an encoder has an embedding for each token, and positions for inputs of max_length tokens.

    A prefix takes positions, too.
    """
    if config.strategy == "prefix":
        together = {"max_length + num_virtual_tokens": config.max_length + config.num_virtual_tokens}
        check_sizes(model, load_tokenizer(source, config), source, **together)
    check_sizes(model, load_tokenizer(source, config), source, max_length=config.max_length)


def with_dropout(model: PreTrainedModel, config: FinetuneConfig) -> PreTrainedModel:
    """Set the rate of every dropout layer of a model that is built already."""
    if config.dropout is not None:
        for module in model.modules():
            if type(module).__name__ == "Dropout":
                module.p = config.dropout
    return model


def dropouts_of(model_config: Any, config: FinetuneConfig) -> list[str]:
    """Name the dropout rates that an architecture has, where the settings change them."""
    return [name for name in DROPOUTS if hasattr(model_config, name)] if config.dropout is not None else []
