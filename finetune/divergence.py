"""Training that has diverged ends with an error, at the step where it shows, and leaves no model behind."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from export.files import TuneportError


class StopsWhenDiverged(TrainerCallback):
    """Looks at the weights whenever something is logged, evaluated or saved; a sum of each costs little then."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Raise a TuneportError if a weight is no number."""
        if control.should_log or control.should_evaluate or control.should_save:
            check_weights(kwargs["model"], f"by step {state.global_step}")

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look once more: evaluations and checkpoints of whole epochs are due now."""
        self.on_step_end(args, state, control, **kwargs)


def check_weights(model: nn.Module, when: str) -> None:
    """Raise a TuneportError if a weight that learns is not finite."""
    sums = [parameter.detach().float().sum() for parameter in model.parameters() if parameter.requires_grad]
    if sums and not bool(torch.stack(sums).isfinite().all()):
        raise _diverged(f"{when}: weights are not finite, and the loss is nan")


def check_metrics(metrics: Mapping[str, float], split: str) -> None:
    """Raise a TuneportError if a metric, or the loss, is not finite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise _diverged(f": {name} on {split} is {value}")


def _diverged(what: str) -> TuneportError:
    problem = f"training diverged{'' if what.startswith(':') else ' '}{what}"
    return TuneportError(problem, "lower learning_rate, or clip gradients with max_grad_norm = 1")
