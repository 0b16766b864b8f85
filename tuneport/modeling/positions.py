"""How many tokens a model has positions for; a longer input fails inside the model."""

from transformers import PretrainedConfig, PreTrainedModel

from tuneport.modeling.heads import encoder_config

OFFSET_BY_PADDING = frozenset({
    "camembert", "data2vec-text", "lilt", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
"""Model types that number positions from `pad_token_id + 1` on, so that the rows up to it are never used."""


def position_limit(config: PretrainedConfig, model: PreTrainedModel | None = None) -> int | None:
    """Return how many tokens an input (of an encoder–decoder also a target) may have; None for relative positions.

    Where the model is loaded, its position embeddings show whether they are offset by the padding token; otherwise
    the model type decides. A pooling head of tuneport's has the limit of its encoder.
    """
    config = encoder_config(config)
    size = _first_size(config, "max_target_positions", "max_position_embeddings")
    # DeBERTa has absolute positions only if its inputs are biased by them.
    if size is None or not getattr(config, "position_biased_input", True):
        return None
    return size - (_offset_of_type(config) if model is None else _offset_in(model))


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


def _offset_of_type(config: PretrainedConfig) -> int:
    return (config.pad_token_id or 0) + 1 if config.model_type in OFFSET_BY_PADDING else 0


def _offset_in(model: PreTrainedModel) -> int:
    for name, module in model.named_modules():
        padding_id = getattr(module, "padding_idx", None)  # of torch.nn.Embedding
        if name.endswith("position_embeddings") and padding_id is not None:
            return int(padding_id) + 1
    return 0
