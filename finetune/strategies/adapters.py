"""Bottleneck adapters: small layers between frozen ones, through the `adapters` package.

The architecture is that of Pfeiffer et al., "AdapterFusion" (2021): one adapter after the feed-forward part of each
layer. An adapter is not linear, so it cannot be merged into the weights: a checkpoint has the base model with its
trained head, which transformers can load, and the adapter in a folder. The trained model is loaded by:

    model = AutoModelForSequenceClassification.from_pretrained("checkpoint")
    adapters.init(model)
    model.load_adapter("checkpoint/adapter", set_active=True)
"""

import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tuneport.errors import CheckpointError
from tuneport.modeling.adapters import NAME

from ..config import FinetuneConfig


def add_adapter(model: PreTrainedModel, head: set[str], config: FinetuneConfig) -> PreTrainedModel:
    """Add an adapter to every layer; the adapters and the parameters named in `head` are trained, the others frozen.

    Raises CheckpointError for an architecture that the `adapters` package does not support, or not correctly.
    """
    import adapters

    # It warns of an adapter that is not active yet, while it activates it.
    logging.getLogger("adapters.model_mixin").setLevel(logging.ERROR)
    architecture, before = type(model).__name__, {name for name, _ in model.named_parameters()}
    remedy = "choose another strategy, such as lora, or another base model"
    try:
        adapters.init(model)
        settings = adapters.SeqBnConfig(reduction_factor=config.adapter_reduction_factor)
        model.add_adapter(NAME, config=settings, set_active=True)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{architecture} takes no adapter ({reason})", remedy) from error
    after = dict(model.named_parameters())
    # ModernBERT gets uninitialized biases, which are not saved with the adapter.
    if foreign := sorted(name for name in after.keys() - before if NAME not in name.split(".")):
        raise CheckpointError(f"{architecture} takes no adapter (the adapters package adds {foreign[0]} to it)", remedy)
    if not after.keys() - before:
        raise CheckpointError(f"{architecture} takes no adapter (the adapters package finds no place for it)", remedy)
    model.train_adapter(NAME)
    for name, parameter in after.items():
        parameter.requires_grad_(name not in before or name in head)
    return model


def has_adapter(model: Any) -> bool:
    """Tell whether `add_adapter` or `load_adapter` was applied to a model."""
    return NAME in getattr(model, "adapters_config", ())  # set by adapters.init


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapter to `folder/adapter`, remove it from the model, and write the model."""
    (folder / NAME).mkdir(parents=True, exist_ok=True)
    model.save_adapter(str(folder / NAME), NAME, with_head=False)
    # Saving a checkpoint unlinks modules that `delete_adapter` uses.
    model.apply_to_adapter_layers(lambda _, layer: model._link_prefix_to_pool(layer))
    model.delete_adapter(NAME)
    # Not model.save_pretrained, which `adapters.init` replaces: that one lists the adapters in config.json.
    PreTrainedModel.save_pretrained(model, folder)
