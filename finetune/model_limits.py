"""Checks a model before training: its embeddings and positions suffice, and it does not see its targets."""

from typing import Any

import torch
from transformers import PreTrainedModel

from tuneport.errors import CheckpointError
from tuneport.modeling.positions import position_limit


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
    positions = position_limit(model.config, model)
    for name, length in lengths.items():
        if positions is not None and length > positions:
            raise CheckpointError(f"{name} is {length} and {source} has {positions} positions", f"lower {name}")


def is_causal(model: PreTrainedModel) -> bool:
    """Tell whether the first output of a token is independent of the tokens after it, by trying."""
    device = model.get_input_embeddings().weight.device
    last = model.get_input_embeddings().weight.shape[0] - 1
    pair = torch.tensor([[0, 1, 2], [0, 1, last]], device=device)
    was_training = model.training
    with torch.inference_mode():
        logits = model.eval()(input_ids=pair, attention_mask=torch.ones_like(pair))[0][:, :2]
    model.train(was_training)
    return torch.allclose(logits[0], logits[1], atol=1e-4, rtol=1e-3)


def cls_position(model: PreTrainedModel, tokenizer: Any) -> str:
    """Return where the token is that stands for a whole text, the `first` or the `last`."""
    ids = tokenizer("a")["input_ids"]
    if tokenizer.cls_token_id in ids:
        return "last" if ids[-1] == tokenizer.cls_token_id != ids[0] else "first"
    return "last" if is_causal(model) else "first"
