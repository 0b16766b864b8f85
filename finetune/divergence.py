"""Stops training that has diverged, with an error and without leaving a model."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneport.errors import TuneportError


class Diverged(TuneportError):
    """Training whose weights, loss or metrics are not finite."""


class StopOnDivergence(TrainerCallback):
    """Checks the weights at each log entry, evaluation and checkpoint, where a sum over them costs little."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Raise Diverged if a weight is not finite."""
        if control.should_log or control.should_evaluate or control.should_save:
            check_weights(kwargs["model"], f"by step {state.global_step}")

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check again before evaluations and checkpoints that are due at the end of an epoch."""
        self.on_step_end(args, state, control, **kwargs)


def check_weights(model: nn.Module, when: str) -> None:
    """Raise Diverged if a trained weight is not finite."""
    sums = [parameter.detach().float().sum() for parameter in model.parameters() if parameter.requires_grad]
    if sums and not bool(torch.stack(sums).isfinite().all()):
        raise _diverged(f"training diverged {when}: weights are not finite, and the loss is nan")


def check_metrics(metrics: Mapping[str, float], split: str) -> None:
    """Raise Diverged if a metric, or the loss, is not finite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise _diverged(f"training diverged: {name} on {split} is {value}")


def _diverged(problem: str) -> Diverged:
    return Diverged(problem, "lower learning_rate, or clip gradients with max_grad_norm = 1")
