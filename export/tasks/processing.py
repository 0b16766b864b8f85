"""The part of an encoder's processing that its tokenizer decides."""

from typing import Any

from tuneport.schema.artifact import Processing

from ..checkpoint import Checkpoint


def encoder_processing(checkpoint: Checkpoint, **fields: Any) -> Processing:
    """Return how inputs are cut to the model's maximum and padded, with further `fields` of the task's."""
    tokenizer = checkpoint.tokenizer
    return Processing(
        max_length=checkpoint.max_length,
        pad_token_id=tokenizer.pad_token_id or 0,
        pad_token_type_id=tokenizer.pad_token_type_id,
        padding_side=tokenizer.padding_side,
        **fields,
    )
