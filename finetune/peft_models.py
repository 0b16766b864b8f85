"""LoRA, AdaLoRA and IA3 inside a model's linear layers, and a prefix before its keys and values, through peft."""

from collections.abc import Iterable, Mapping
from typing import Any

import peft
import torch
from peft import utils
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from export.files import TuneportError
from finetune.config import FinetuneConfig
from finetune.layers import layer_stacks

CHOICES: dict[str, Mapping[str, Any]] = {
    "lora": utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    "adalora": utils.TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING,
    "ia3": utils.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
}
"""Strategy → architecture → the names of the linear layers that peft chooses in it."""
FEEDFORWARD = utils.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
WRITERS = {"translation": "SEQ_2_SEQ_LM", "summarization": "SEQ_2_SEQ_LM", "text-generation": "CAUSAL_LM"}
"""Task → peft's name for it, which brings what generation needs."""
ENCODERS = {
    "text-classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
}
"""The same for tasks with a head; only a prefix is given them, since peft finds the head by names that may lie."""


def add_low_rank(model: PreTrainedModel, config: FinetuneConfig) -> nn.Module:
    """Put LoRA, AdaLoRA or IA3 into linear layers; they and a task's new head learn, all else is frozen.

    Raises a TuneportError for target_modules that the model does not have.
    """
    chosen = _chosen_layers(model, config)
    wrapped = peft.get_peft_model(model, _config(model, config, chosen))
    # Not through peft's modules_to_save, which goes by endings of names: attention pooling is called `attention`, and
    # so are BERT's layers. Wrapped like this the head is saved, loaded and merged with the rest just the same.
    for name in head_modules(model):
        head = utils.ModulesToSaveWrapper(getattr(model, name), "default")
        head.set_adapter("default")
        setattr(model, name, head)
    return wrapped


def merge(wrapped: peft.PeftModel) -> Any:
    """Return the model itself, with what was trained in its weights."""
    model = wrapped.get_base_model()
    for name, child in list(model.named_children()):
        if isinstance(child, utils.ModulesToSaveWrapper):  # peft's IA3 stumbles over a head of several layers
            setattr(model, name, child.modules_to_save["default"])
    return wrapped.merge_and_unload()


def add_prefix(model: PreTrainedModel, config: FinetuneConfig) -> nn.Module:
    """Put learnt keys and values before each layer's; they and a task's new head learn, all else is frozen.

    Raises a TuneportError for the many architectures that cannot be given any, or would not look at them.
    """
    problem = f"strategy = prefix does not work with {type(model).__name__}"
    remedy = "use strategy = lora, adalora, ia3 or full"
    task = {**ENCODERS, **WRITERS}.get(config.task)
    try:
        settings = peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=config.num_virtual_tokens)
        wrapped = peft.get_peft_model(model, settings)
        learns = _prefix_learns(wrapped)
    except Exception as error:  # each family fails in its own way, somewhere in its own code or peft's
        raise TuneportError(problem, remedy) from error
    if not learns:
        raise TuneportError(problem, remedy)
    return wrapped


def _prefix_learns(wrapped: Any) -> bool:
    """Try two rows of three tokens: tell whether the outputs depend on the prefix."""
    was_training = wrapped.training
    tokens = torch.arange(6, device=wrapped.device).reshape(2, 3)
    feeds = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if wrapped.config.is_encoder_decoder:
        feeds["decoder_input_ids"] = tokens
    outputs = wrapped.eval()(**feeds)
    logits = outputs.start_logits if "start_logits" in outputs else outputs.logits
    logits.float().square().sum().backward()
    gradients = [parameter.grad for parameter in wrapped.prompt_encoder.parameters()]
    wrapped.zero_grad()
    wrapped.train(was_training)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def head_modules(model: PreTrainedModel) -> list[str]:
    """Name the children of a model that are its task's head; a model that writes has learnt its own long ago."""
    if model.get_output_embeddings() is not None:
        return []
    embeddings = model.get_input_embeddings()
    stacks = layer_stacks(model)
    return [
        name
        for name, child in model.named_children()
        if any(True for _ in child.parameters())
        and not any(path.startswith(f"{name}.") for path in stacks)
        and all(module is not embeddings for module in child.modules())
    ]


def _chosen_layers(model: PreTrainedModel, config: FinetuneConfig) -> list[str]:
    """Name in full the linear layers to train: those of the settings, else peft's for the architecture, else all."""
    stacks = layer_stacks(model)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and any(name.startswith(f"{path}.") for path in stacks)
    ]
    if config.target_modules and config.target_modules != ("all-linear",):
        if unknown := [target for target in config.target_modules if not _ending(linear, [target])]:
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise TuneportError(
                f"target_modules names {', '.join(unknown)}, and the linear layers of {type(model).__name__} are "
                f"{', '.join(known)}",
                "name some of these",
            )
        return _ending(linear, config.target_modules)
    usual = () if config.target_modules else CHOICES[config.strategy].get(_architecture(model), ())
    return (_ending(linear, usual) if not isinstance(usual, str) else []) or linear


def _architecture(model: PreTrainedModel) -> str:
    """Return the model type of the encoder, which is within ours where we have pooled it."""
    return str(getattr(model.base_model, "config", model.config).model_type)


def _ending(names: Iterable[str], endings: Iterable[str]) -> list[str]:
    return [name for name in names if any(f".{name}".endswith(f".{ending}") for ending in endings)]


def _config(model: PreTrainedModel, config: FinetuneConfig, chosen: list[str]) -> peft.PeftConfig:
    common: dict[str, Any] = {
        "task_type": WRITERS.get(config.task),
        "target_modules": chosen,
        # GPT-2 keeps its weights so.
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in model.modules()),
    }
    if config.strategy == "ia3":
        usual = () if config.target_modules else FEEDFORWARD.get(_architecture(model), ())
        return peft.IA3Config(**common, feedforward_modules=_ending(chosen, usual))
    common |= {"lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    if config.strategy == "adalora":
        return peft.AdaLoraConfig(
            **common,
            target_r=config.lora_r,
            init_r=config.lora_r + config.lora_r // 2 + 1,
            total_step=1,  # the real number is known when training begins: AdaLoraBudget
        )
    return peft.LoraConfig(**common, r=config.lora_r)
