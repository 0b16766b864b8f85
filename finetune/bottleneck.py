"""Bottleneck adapters: small layers between frozen ones, through the `adapters` package.

The form is that of Pfeiffer et al., "AdapterFusion" (2021): one adapter behind the feed-forward part of each layer.
An adapter is not linear, so it cannot be merged into the weights: a checkpoint holds the base model with its trained
head, which transformers loads alone, and beside it the adapter. All it takes to have the trained model again:

    model = AutoModelForSequenceClassification.from_pretrained("checkpoint")
    adapters.init(model)
    model.load_adapter("checkpoint/adapter", set_active=True)
"""

import inspect
import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from export.files import CheckpointError
from finetune.config import FinetuneConfig
from finetune.optional import check_installed

NAME = "adapter"
"""The adapter's name in the model, and its folder in the checkpoint."""


def add_adapter(model: PreTrainedModel, head: set[str], config: FinetuneConfig) -> PreTrainedModel:
    """Put an adapter into every layer; it and the parameters named in `head` learn, the others are frozen.

    Raises CheckpointError for an architecture that the `adapters` package does not know, or knows wrongly.
    """
    import adapters

    # It warns of an adapter that is not active yet, while it activates it.
    logging.getLogger("adapters.model_mixin").setLevel(logging.ERROR)
    kind, before = type(model).__name__, {name for name, _ in model.named_parameters()}
    # The Trainer looks at the signature of forward, which will be another one.
    takes_more = any(each.kind is each.VAR_KEYWORD for each in inspect.signature(model.forward).parameters.values())
    remedy = "choose another strategy, such as lora, or another base model"
    try:
        adapters.init(model)
        settings = adapters.SeqBnConfig(reduction_factor=config.adapter_reduction_factor)
        model.add_adapter(NAME, config=settings, set_active=True)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{kind} takes no adapter ({reason})", remedy) from error
    after = dict(model.named_parameters())
    # ModernBERT gets biases without values, which are not saved with the adapter either.
    if foreign := sorted(name for name in after.keys() - before if NAME not in name.split(".")):
        raise CheckpointError(f"{kind} takes no adapter (the adapters package adds {foreign[0]} to it)", remedy)
    if not after.keys() - before:
        raise CheckpointError(f"{kind} takes no adapter (the adapters package finds no place for it)", remedy)
    model.accepts_loss_kwargs = takes_more
    model.train_adapter(NAME)
    for name, parameter in after.items():
        parameter.requires_grad_(name not in before or name in head)
    return model


def has_adapter(model: Any) -> bool:
    """Tell whether `add_adapter` or `load_adapter` has been at work on a model."""
    return NAME in getattr(model, "adapters_config", ())


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapter to `folder/adapter` and take it out of the model, then write the model as it was made."""
    (folder / NAME).mkdir(parents=True, exist_ok=True)
    model.save_adapter(str(folder / NAME), NAME, with_head=False)
    model.delete_adapter(NAME)
    # Not the method that adapters put in its place: that one notes the adapters in config.json.
    PreTrainedModel.save_pretrained(model, folder)


def load_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Give a model, loaded from a checkpoint, the adapter that is beside it; without one it stays as it is."""
    if (folder / NAME).is_dir():
        check_installed({"adapters": str(folder / NAME)})
        import adapters

        adapters.init(model)
        model.load_adapter(str(folder / NAME), set_active=True)
    return model
