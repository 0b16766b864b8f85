"""Decide which tensors a checkpoint gets: in torch, in its graph, and so in serving.

Training feeds what the tokenizer's class emits and the model's `forward` takes. Both are of the checkpoint, so that the
same rule gives the same inputs here.
"""

import inspect
from typing import Any

from tuneport.errors import CheckpointError

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""What a text becomes; a model that needs anything else cannot be served on texts."""


def input_names(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """Return the inputs that the tokenizer emits and the model takes, in the order of `INPUT_NAMES`.

    Raises CheckpointError for a model that takes no token ids, or needs an input that a text does not have.
    """
    parameters = inspect.signature(model.forward).parameters
    emitted = {"input_ids", *(tokenizer.model_input_names or ())}
    names = tuple(name for name in INPUT_NAMES if name in parameters and name in emitted)
    needed = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    kind, missing = model.config.model_type, sorted(needed - set(names))
    if missing or "input_ids" not in names:
        problem = f"{kind} needs {missing[0]}" if missing else f"{kind} takes no input_ids"
        raise CheckpointError(f"{problem}, which a text does not have", "use a model that reads text alone")
    return names
