"""What is trained, and how fast: layer groups, freezing, gradual unfreezing, layer-wise rates, adapters.

A model is seen as groups from the bottom up: embeddings, each transformer layer, head. Gradual unfreezing and
discriminative rates are those of Howard and Ruder, "Universal Language Model Fine-tuning" (2018).
"""

import re
from collections.abc import Mapping
from typing import Any

import peft
import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.optimization import Adafactor
from transformers.pytorch_utils import Conv1D

from export.files import TuneportError
from finetune.bottleneck import add_adapter
from finetune.config import FinetuneConfig

EMBEDDINGS = re.compile(r"embed|(^|\.)(wte|wpe|shared|conv1|conv2|mask_emb)(\.|$)")
"""Parameters below the first layer, by the names that the families give them."""
PEFT_TASKS = {
    "text-classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "translation": "SEQ_2_SEQ_LM",
    "summarization": "SEQ_2_SEQ_LM",
    "text-generation": "CAUSAL_LM",
}
"""Task → peft's name for it; it decides which head is trained beside the adapter."""


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Group the names of all parameters from the bottom up: embeddings, every layer in order, head.

    The layers of an encoder come before those of a decoder. Poolers and last norms belong to the head; a head that
    is tied to the embeddings is one weight with them and learns when they do.
    """
    stacks = _layer_stacks(model)
    groups: list[list[str]] = [[] for _ in range(2 + sum(len(stack) for stack in stacks.values()))]
    starts: dict[str, int] = {}
    start = 1
    for path, stack in stacks.items():
        starts[path], start = start, start + len(stack)
    for name, _ in model.named_parameters():
        inside = next((path for path in stacks if name.startswith(f"{path}.")), None)
        if inside is not None:
            index = int(name.removeprefix(f"{inside}.").partition(".")[0])
            groups[starts[inside] + index].append(name)
        else:
            groups[0 if EMBEDDINGS.search(name) else -1].append(name)
    return groups


def _layer_stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Find the lists of layers that are not inside another list, of one class each."""
    stacks: dict[str, nn.ModuleList] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            classes = {type(layer) for layer in module}
            if len(classes) == 1 and any(True for _ in module[0].parameters()):
                stacks[path] = module
    if not stacks:
        raise TuneportError(f"{type(model).__name__} has no layers to tell apart", "use strategy = full")
    return stacks


def head_is_tied(model: Any) -> bool:
    """Tell whether the output layer is the input embeddings, as in T5, BART, Marian, Whisper and GPT-2."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return head is not None and head.weight is model.get_input_embeddings().weight


def set_trainable(model: nn.Module, groups: list[list[str]], count: int) -> None:
    """Let the top `count` groups learn and freeze the others."""
    learning = {name for group in groups[max(0, len(groups) - count) :] for name in group}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)


def apply_strategy(model: PreTrainedModel, config: FinetuneConfig) -> nn.Module:
    """Freeze or wrap a model as `config.strategy` says; returns the model to train."""
    if config.strategy in ("full", "gradual"):  # GradualUnfreezing freezes when an epoch begins
        return model
    if config.strategy == "head" and head_is_tied(model):
        raise TuneportError(
            f"the head of {type(model).__name__} is its embeddings, so nothing is left to learn with the base frozen",
            "use strategy = last_layers, gradual, lora or full",
        )
    if config.strategy in ("head", "last_layers"):
        layers = config.num_last_layers if config.strategy == "last_layers" else 0
        set_trainable(model, layer_groups(model), 1 + layers)
        return model
    if config.strategy == "adapter":
        # What writes text has learnt its head with the rest of it; a task's head is new.
        head = [] if model.get_output_embeddings() is not None else layer_groups(model)[-1]
        return add_adapter(model, set(head), config)
    return _wrap_with_peft(model, config)


def finish_strategy(model: Any) -> Any:
    """Merge what peft trained into the weights where that is exact; a prefix and an adapter stay beside them."""
    if not isinstance(model, peft.PeftModel) or isinstance(model.active_peft_config, peft.PrefixTuningConfig):
        return model
    return model.merge_and_unload()


def _wrap_with_peft(model: PreTrainedModel, config: FinetuneConfig) -> nn.Module:
    targets: Any = list(config.target_modules) or None
    try:
        return peft.get_peft_model(model, _peft_config(model, config, targets))
    except ValueError as error:
        if targets or "target_modules" not in str(error):
            raise TuneportError(
                f"{config.strategy} does not fit this model ({error})", "choose another strategy"
            ) from error
    return peft.get_peft_model(model, _peft_config(model, config, "all-linear"))


def _peft_config(model: nn.Module, config: FinetuneConfig, targets: Any) -> peft.PeftConfig:
    task = PEFT_TASKS.get(config.task)
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2 keeps its weights so
    if config.strategy == "prefix":
        return peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=config.num_virtual_tokens)
    if config.strategy == "ia3":
        return peft.IA3Config(
            task_type=task,
            target_modules=targets,
            feedforward_modules=[] if targets else None,
            fan_in_fan_out=transposed,
        )
    if config.strategy == "adalora":
        return peft.AdaLoraConfig(
            task_type=task,
            fan_in_fan_out=transposed,
            target_modules=targets,
            target_r=config.lora_r,
            init_r=config.lora_r + config.lora_r // 2 + 1,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            total_step=1,  # the real number is known when training begins: AdaLoraBudget
        )
    return peft.LoraConfig(
        task_type=task,
        fan_in_fan_out=transposed,
        target_modules=targets,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
    )


class GradualUnfreezing(TrainerCallback):
    """Epoch by epoch one layer group more learns: the head, then the top layer, down to the embeddings.

    Where the head is tied to the embeddings, the last norms and the top layer are the first.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set what learns in this epoch; from the epoch's number, so that a resumed run does the same."""
        model = kwargs["model"]
        set_trainable(model, layer_groups(model), 1 + head_is_tied(model) + int(state.epoch or 0))


class AdaLoraBudget(TrainerCallback):
    """AdaLoRA moves rank between layers as training goes on; it has to be told each step."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Spread the schedule over the run: a tenth to warm up, the last third fixed."""
        config = kwargs["model"].peft_config["default"]
        config.total_step = state.max_steps
        config.tinit, config.tfinal = state.max_steps // 10, state.max_steps // 3

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the budget; gradients are still there after the optimizer's step."""
        kwargs["model"].base_model.update_and_allocate(state.global_step)


def parameter_groups(
    model: nn.Module, config: FinetuneConfig, decayed: set[str], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the optimizer's groups: by layer where rates differ, with and without weight decay.

    `decayed` names the parameters that weight decay applies to.
    """
    by_layer = layer_groups(model) if config.layer_lr_decay < 1 else [[name for name, _ in model.named_parameters()]]
    parameters: Mapping[str, nn.Parameter] = dict(model.named_parameters())
    groups = []
    for depth, names in enumerate(by_layer):
        rate = learning_rate * config.layer_lr_decay ** (len(by_layer) - 1 - depth)
        for decay in (True, False):
            chosen = [parameters[n] for n in names if (n in decayed) == decay and parameters[n].requires_grad]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": weight_decay if decay else 0.0})
    return groups


def make_optimizer(config: FinetuneConfig, groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Make the optimizer that `config.optim` names."""
    if config.optim == "adafactor":
        return Adafactor(groups, lr=learning_rate, scale_parameter=False, relative_step=False)
    if config.optim == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=config.momentum, fused=True)
    if config.optim == "adagrad":
        return torch.optim.Adagrad(groups, lr=learning_rate)
    # Adam takes weight decay as a part of the gradient (L2), AdamW apart from it.
    kind = torch.optim.Adam if config.optim == "adam" else torch.optim.AdamW
    # Fused is the Trainer's default, too: on a processor a step takes a fifth of the time.
    return kind(groups, lr=learning_rate, fused=True)
