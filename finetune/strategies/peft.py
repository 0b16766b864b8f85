"""LoRA, AdaLoRA and IA3 in a model's linear layers, and prefix tuning, with the peft package."""

from collections.abc import Iterable, Mapping
from typing import Any

import peft
import torch
from peft import utils
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tuneport.errors import TuneportError
from tuneport.modeling.heads import encoder_config
from tuneport.tasks import task_spec

from ..config import FinetuneConfig
from .layers import layer_stacks

DEFAULT_LAYERS: dict[str, Mapping[str, Any]] = {
    "lora": utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    "adalora": utils.TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING,
    "ia3": utils.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
}
"""Strategy → architecture → names of the linear layers that peft chooses."""
FEEDFORWARD_LAYERS = utils.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING


def add_low_rank(model: PreTrainedModel, config: FinetuneConfig) -> nn.Module:
    """Add LoRA, AdaLoRA or IA3 to linear layers; these and a task's new head are trained, all else is frozen.

    Raises a TuneportError for target_modules that the model does not have.
    """
    layers = _select_layers(model, config)
    wrapped = peft.get_peft_model(model, _peft_config(model, config, layers))
    # Not by peft's modules_to_save, which matches endings of names: the attention of our pooling heads and that of
    # BERT's layers are both called `attention`. Heads wrapped like this are saved, loaded and merged in the same way.
    for name in head_modules(model):
        head = utils.ModulesToSaveWrapper(getattr(model, name), "default")
        head.set_adapter("default")
        setattr(model, name, head)
    return wrapped


def merge(wrapped: peft.PeftModel) -> Any:
    """Merge the trained parameters into the weights, and return the model without peft's wrapper."""
    model = wrapped.get_base_model()
    for name, child in list(model.named_children()):
        if isinstance(child, utils.ModulesToSaveWrapper):  # peft's IA3 fails on a head of several layers
            setattr(model, name, child.modules_to_save["default"])
    return wrapped.merge_and_unload()


def add_prefix(model: PreTrainedModel, config: FinetuneConfig) -> nn.Module:
    """Prepend learnt keys and values to those of each layer; these and a task's new head are trained.

    Raises a TuneportError for the many architectures that do not take them, or ignore them.
    """
    problem = f"strategy = prefix does not work with {type(model).__name__}"
    remedy = "use strategy = lora, adalora, ia3 or full"
    task_type = task_spec(config.task).peft_task
    try:
        settings = peft.PrefixTuningConfig(task_type=task_type, num_virtual_tokens=config.num_virtual_tokens)
        wrapped = peft.get_peft_model(model, settings)
        is_used = _uses_prefix(wrapped)
    except Exception as error:  # architectures fail in various ways, in their own code or peft's
        raise TuneportError(problem, remedy) from error
    if not is_used:
        raise TuneportError(problem, remedy)
    return wrapped


def _uses_prefix(wrapped: Any) -> bool:
    """Tell whether the outputs of two rows of three tokens depend on the prefix."""
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
    """Name the children of a model that are its task's new head; none for generative models, whose head is trained."""
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


def _select_layers(model: PreTrainedModel, config: FinetuneConfig) -> list[str]:
    """Return the full names of the linear layers to train.

    They are those of the settings, else peft's choice for the architecture, else all.
    """
    stacks = layer_stacks(model)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and any(name.startswith(f"{path}.") for path in stacks)
    ]
    if config.target_modules and config.target_modules != ("all-linear",):
        if unknown := [target for target in config.target_modules if not _with_endings(linear, [target])]:
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise TuneportError(
                f"target_modules names {', '.join(unknown)}, and the linear layers of {type(model).__name__} are "
                f"{', '.join(known)}",
                "name some of these",
            )
        return _with_endings(linear, config.target_modules)
    defaults = () if config.target_modules else DEFAULT_LAYERS[config.strategy].get(_architecture(model), ())
    return (_with_endings(linear, defaults) if not isinstance(defaults, str) else []) or linear


def _architecture(model: PreTrainedModel) -> str:
    """Return the model type, of a pooling head of tuneport's that of its encoder."""
    return str(encoder_config(model.config).model_type)


def _with_endings(names: Iterable[str], endings: Iterable[str]) -> list[str]:
    return [name for name in names if any(f".{name}".endswith(f".{ending}") for ending in endings)]


def _peft_config(model: PreTrainedModel, config: FinetuneConfig, layers: list[str]) -> peft.PeftConfig:
    spec = task_spec(config.task)
    common: dict[str, Any] = {
        # peft adds methods for generation. For an encoder it would look for the head by name, and may find another
        # module.
        "task_type": spec.peft_task if spec.is_generative else None,
        "target_modules": layers,
        # GPT-2 has transposed weights.
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in model.modules()),
    }
    if config.strategy == "ia3":
        defaults = () if config.target_modules else FEEDFORWARD_LAYERS.get(_architecture(model), ())
        return peft.IA3Config(**common, feedforward_modules=_with_endings(layers, defaults))
    common |= {"lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    if config.strategy == "adalora":
        return peft.AdaLoraConfig(
            **common,
            target_r=config.lora_r,
            init_r=config.lora_r + config.lora_r // 2 + 1,
            total_step=1,  # AdaLoraBudget sets the number of steps when training begins
        )
    return peft.LoraConfig(**common, r=config.lora_r)
