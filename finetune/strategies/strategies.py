"""Selects the trained parameters and their learning rates: freezing, gradual unfreezing, layer-wise rates, peft.

Gradual unfreezing and discriminative rates are those of Howard and Ruder, "Universal Language Model Fine-tuning for
Text Classification" (2018), applied to the groups of `strategies.layers`.
"""

import math
from collections.abc import Mapping
from typing import Any

import peft
import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.optimization import Adafactor

from tuneport.errors import TuneportError

from ..config import FinetuneConfig
from .adapters import add_adapter
from .layers import layer_groups
from .peft import add_low_rank, add_prefix, merge


def head_is_tied(model: Any) -> bool:
    """Tell whether the output layer shares the input embeddings' weight, as in T5, BART, Marian, Whisper and GPT-2."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return head is not None and head.weight is model.get_input_embeddings().weight


def set_trainable(model: nn.Module, groups: list[list[str]], count: int) -> None:
    """Train the top `count` groups and freeze the others."""
    trainable = {name for group in groups[max(0, len(groups) - count) :] for name in group}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)


def apply_strategy(model: PreTrainedModel, config: FinetuneConfig) -> nn.Module:
    """Freeze or wrap a model as `config.strategy` says; returns the model to train."""
    if config.strategy in ("full", "gradual"):  # GradualUnfreezing freezes at the beginning of an epoch
        return model
    if config.strategy == "head" and head_is_tied(model):
        raise TuneportError(
            f"the head of {type(model).__name__} is its embeddings, so nothing is left to learn with the base frozen",
            "use strategy = last_layers, gradual, lora or full",
        )
    if config.strategy in ("head", "last_layers"):
        layers = config.num_last_layers if config.strategy == "last_layers" else 0
        groups = layer_groups(model)
        if layers > len(groups) - 2:  # without embeddings and head
            problem = f"num_last_layers is {layers}, and the model has {len(groups) - 2} layers"
            raise TuneportError(problem, "lower it, or use strategy = full")
        set_trainable(model, groups, 1 + layers)
        return model
    if config.strategy == "adapter":
        # Generative models have a trained head; an encoder's is new.
        head = [] if model.get_output_embeddings() is not None else layer_groups(model)[-1]
        return add_adapter(model, set(head), config)
    return add_prefix(model, config) if config.strategy == "prefix" else add_low_rank(model, config)


def finish_strategy(model: Any) -> Any:
    """Merge LoRA, AdaLoRA and IA3 into the weights; a prefix and an adapter, which cannot be merged, stay."""
    if not isinstance(model, peft.PeftModel) or isinstance(model.active_peft_config, peft.PrefixTuningConfig):
        return model
    return merge(model)


class GradualUnfreezing(TrainerCallback):
    """Trains more layer groups in each epoch: first the head, then layers from the top, at last everything.

    It is one more group in each epoch where there are as many epochs as groups. Where the head is tied to the
    embeddings, the first epoch trains the last norms and the top layer.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raise a TuneportError for a training of one epoch, which has no time to unfreeze anything."""
        if state.num_train_epochs < 2:
            raise TuneportError(
                "strategy = gradual trains more layers in each epoch, and this run has one epoch",
                "give two epochs or more, or use strategy = head or full",
            )

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Freeze by the epoch's number, so that a resumed run does the same."""
        model = kwargs["model"]
        groups, first = layer_groups(model), 1 + head_is_tied(model)
        set_trainable(model, groups, count_unfrozen(len(groups), first, int(state.epoch or 0), state.num_train_epochs))


def count_unfrozen(groups: int, first: int, epoch: int, epochs: int) -> int:
    """Return how many of the top `groups` are trained in an epoch, counted from 0: `first` ones, in the last epoch all.

    At least one more is trained in each epoch.
    """
    return min(groups, first + math.ceil(epoch * max(1.0, (groups - first) / (epochs - 1))))


def parameter_groups(
    model: nn.Module, config: FinetuneConfig, decayed: set[str], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups: by layer where rates differ, with and without weight decay.

    `decayed` names the parameters that weight decay applies to.
    """
    by_layer = layer_groups(model) if config.layer_lr_decay < 1 else [[name for name, _ in model.named_parameters()]]
    parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters())
    groups = []
    for depth, names in enumerate(by_layer):
        rate = learning_rate * config.layer_lr_decay ** (len(by_layer) - 1 - depth)
        for decay in (True, False):
            trained = [parameters[n] for n in names if (n in decayed) == decay and parameters[n].requires_grad]
            if trained:
                groups.append({"params": trained, "lr": rate, "weight_decay": weight_decay if decay else 0.0})
    return groups


def make_optimizer(config: FinetuneConfig, groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Build the optimizer that `config.optim` names."""
    if config.optim == "adafactor":
        return Adafactor(groups, lr=learning_rate, scale_parameter=False, relative_step=False)
    if config.optim == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=config.momentum, fused=True)
    if config.optim == "adagrad":
        return torch.optim.Adagrad(groups, lr=learning_rate)
    # Adam adds weight decay to the gradient (L2), AdamW applies it separately.
    optimizer_class = torch.optim.Adam if config.optim == "adam" else torch.optim.AdamW
    # Fused is the Trainer's default, too: on a CPU a step takes a fifth of the time.
    return optimizer_class(groups, lr=learning_rate, fused=True)
