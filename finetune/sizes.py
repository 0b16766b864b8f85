"""Whether a model has embeddings and positions for what it will be given; more would fail in the midst of training."""

from typing import Any

from transformers import PreTrainedModel

from export.files import CheckpointError


def check_sizes(model: PreTrainedModel, tokenizer: Any, source: str, **lengths: int) -> None:
    """Check that the model has an embedding for each token, and positions for the settings in `lengths`, in tokens.

    Raises CheckpointError.
    """
    embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embeddings:
        raise CheckpointError(
            f"{source} has {embeddings} embeddings and a tokenizer of {len(tokenizer)} tokens",
            "give a model with its own tokenizer",
        )
    positions = positions_of(model)
    for name, length in lengths.items():
        if positions is not None and length > positions:
            raise CheckpointError(f"{name} is {length} and {source} has {positions} positions", f"lower {name}")


def positions_of(model: PreTrainedModel) -> int | None:
    """Return the tokens that an input may have; None where positions are relative and so without an end."""
    config = getattr(model.base_model, "config", model.config)  # our pooling heads keep the encoder's inside
    said = getattr(config, "max_target_positions", None) or getattr(config, "max_position_embeddings", None)
    # XLNet says -1; DeBERTa's are relative unless it says otherwise.
    if said is None or said < 1 or not getattr(config, "position_biased_input", True):
        return None
    for name, module in model.named_modules():
        # RoBERTa and its kin count from the padding's number on.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(said) - int(module.padding_idx) - 1
    return int(said)
