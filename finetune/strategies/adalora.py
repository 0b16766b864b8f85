"""AdaLoRA's budget of ranks: its schedule, its regularization, and its state in checkpoints.

Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning" (2023).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

ALLOCATOR = "rank_allocator.pt"
"""File of a checkpoint: the importance of each weight so far, and which ranks are in use."""
AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""Attributes of peft's allocator that change while it trains."""


class AdaLoraBudget(TrainerCallback):
    """Updates AdaLoRA's ranks, which it moves between layers, at each step."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the schedule: the first tenth of the steps keeps the ranks, and so does the last third."""
        config = kwargs["model"].peft_config["default"]
        config.total_step = state.max_steps
        config.tinit, config.tfinal = state.max_steps // 10, state.max_steps // 3

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the ranks from the gradients, which still exist after the optimizer's step."""
        kwargs["model"].base_model.update_and_allocate(state.global_step)


def is_adalora(model: Any) -> bool:
    """Tell whether a model has AdaLoRA's layers."""
    return isinstance(model, peft.PeftModel) and isinstance(model.base_model, peft.AdaLoraModel)


def adds_regularization(model: Any) -> bool:
    """Tell whether peft adds the regularization to a model's own loss: it does in its classes for generative models."""
    return type(model) is not peft.PeftModel


def regularization(model: Any) -> torch.Tensor | float:
    """Compute how far AdaLoRA's matrices are from orthogonal ones; 0 for every other strategy."""
    if not is_adalora(model):
        return 0.0
    matrices = [p.T if "lora_B" in name else p for name, p in model.named_parameters() if _is_factor(name)]
    norms = [torch.norm(matrix @ matrix.T - torch.eye(len(matrix), device=matrix.device)) for matrix in matrices]
    return model.peft_config["default"].orth_reg_weight * torch.stack(norms).mean()


def _is_factor(name: str) -> bool:
    return "lora_A" in name or "lora_B" in name


@contextlib.contextmanager
def all_ranks(model: Any) -> Iterator[None]:
    """Keep the ranks in a checkpoint that are out of use at the moment, which peft would leave out.

    They may be used again while the budget still moves, and the optimizer's state has their shapes.
    """
    if not is_adalora(model):
        yield
        return
    config = model.peft_config["default"]
    pattern, config.rank_pattern = config.rank_pattern, None
    try:
        yield
    finally:
        config.rank_pattern = pattern


def save_allocator(model: Any, folder: Path) -> None:
    """Write what the budget depends on, beside the weights of a checkpoint; nothing for every other strategy."""
    if is_adalora(model):
        allocator = model.base_model.rankallocator
        state = {name: getattr(allocator, name) for name in AVERAGES}
        torch.save({**state, "rank_pattern": model.peft_config["default"].rank_pattern}, folder / ALLOCATOR)


def load_allocator(model: Any, folder: Path) -> None:
    """Read what `save_allocator` wrote."""
    if is_adalora(model):
        state = torch.load(folder / ALLOCATOR, map_location=model.device, weights_only=True)
        model.peft_config["default"].rank_pattern = state.pop("rank_pattern")
        for name, value in state.items():
            setattr(model.base_model.rankallocator, name, value)
