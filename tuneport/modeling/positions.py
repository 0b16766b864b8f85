"""How many tokens a model has positions for; a longer input fails inside the model."""

import warnings

import torch
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from tuneport.modeling.heads import encoder_config


def position_limit(config: PretrainedConfig, model: PreTrainedModel | None = None) -> int | None:
    """Return how many tokens an input (of an encoder–decoder also a target) may have; None for relative positions.

    RoBERTa and its kin number positions from `padding_idx + 1` of their position embeddings on, so that the rows up to
    it are never used. Without `model` the architecture is built without weights to see whether it does. A pooling head
    of tuneport's has the limit of its encoder.
    """
    config = encoder_config(config)
    size = _first_size(config, "max_target_positions", "max_position_embeddings")
    # DeBERTa has absolute positions only if its inputs are biased by them.
    if size is None or not getattr(config, "position_biased_input", True):
        return None
    model = model or _without_weights(config)
    return size if model is None else _usable_rows(model, size)


def declared_positions(config: PretrainedConfig) -> int | None:
    """Return the length that a generative model's configuration names; None if it names none.

    Unlike `position_limit` this includes T5's `n_positions`: its positions are relative, and that is the length which
    it was trained on.
    """
    return _first_size(config, "max_target_positions", "max_position_embeddings", "n_positions", "n_ctx")


def _first_size(config: PretrainedConfig, *names: str) -> int | None:
    """Return the first of the settings that is a positive number; XLNet's max_position_embeddings is -1."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _without_weights(config: PretrainedConfig) -> PreTrainedModel | None:
    """Build an architecture on the meta device; None for one that needs code of its repository or real tensors."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that loading the weights refuses
            return AutoModel.from_config(config)
    except Exception:  # of any architecture; the export runs an input of full length, which shows a wrong limit
        return None


def _usable_rows(model: PreTrainedModel, size: int) -> int:
    """Return the rows of the position embeddings from the first that is used on, `size` at most."""
    for name, module in model.named_modules():
        padding_id = getattr(module, "padding_idx", None)  # of torch.nn.Embedding
        if name.endswith("position_embeddings") and padding_id is not None:
            rows = int(getattr(module, "num_embeddings", size))
            return min(size, rows - int(padding_id) - 1)
    return size
