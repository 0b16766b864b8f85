"""transformers' Trainer with what it lacks: our optimizers and rates, a task's loss, adversarial steps."""

import warnings
from typing import Any

import peft
import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import Seq2SeqTrainer, Trainer

from export.files import TuneportError
from finetune.config import FinetuneConfig
from finetune.strategies import make_optimizer, parameter_groups


class TuneportTrainer(Trainer):
    """A Trainer that knows the run's settings."""

    def __init__(self, *, settings: FinetuneConfig, **options: Any) -> None:
        """`options` are those of Trainer."""
        self.settings = settings
        with warnings.catch_warnings():
            # Of several labels, which our own loss smooths where transformers does not.
            warnings.filterwarnings("ignore", "Label smoothing is not compatible with multi-label", UserWarning)
            super().__init__(**options)

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Group parameters by layer and weight decay; rates come from the arguments, which a search changes."""
        if self.optimizer is None:  # type: ignore[has-type]
            decayed = set(self.get_decay_parameter_names(self.model))
            groups = parameter_groups(
                self.model, self.settings, decayed, self.args.learning_rate, self.args.weight_decay
            )
            self.optimizer = make_optimizer(self.settings, groups, self.args.learning_rate)
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, and beside a prefix the base model's config.json, which knows labels and problem type."""
        super().save_model(output_dir, _internal_call)
        model = self.accelerator.unwrap_model(self.model)
        if self.args.should_save and isinstance(model, peft.PeftModel):
            model.get_base_model().config.save_pretrained(output_dir or self.args.output_dir)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Keep the rows in order: Trainer would group them by length, and metrics could not find their rows."""
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Add, where the settings say so, the gradient on adversarially moved embeddings.

        FGM, the fast gradient method of Miyato et al., "Adversarial Training Methods for Semi-Supervised Text
        Classification" (2017): the embedding weights move by epsilon along their normalized gradient.
        """
        loss = super().training_step(model, dict(inputs), num_items_in_batch)
        if not self.settings.adversarial_epsilon:
            return loss
        weight = self.accelerator.unwrap_model(model).get_input_embeddings().weight
        if weight.grad is None:
            raise TuneportError("adversarial_epsilon moves embeddings, and they are frozen", "use strategy = full")
        before = weight.detach().clone()
        norm = weight.grad.norm()
        if norm > 0 and torch.isfinite(norm):
            weight.data.add_(weight.grad * (self.settings.adversarial_epsilon / norm))
            super().training_step(model, dict(inputs), num_items_in_batch)
            weight.data.copy_(before)
        return loss


class TuneportSeq2SeqTrainer(TuneportTrainer, Seq2SeqTrainer):
    """The same for tasks that generate when they are evaluated."""
