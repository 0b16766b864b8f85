"""transformers' Trainer with more optimizers, learning rates by layer, and adversarial steps."""

import warnings
from typing import Any

import peft
import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import Seq2SeqTrainer, Trainer

from tuneport.errors import TuneportError

from .config import FinetuneConfig
from .strategies.strategies import make_optimizer, parameter_groups


class TuneportTrainer(Trainer):
    """A Trainer with the settings of a run."""

    def __init__(self, *, settings: FinetuneConfig, **options: Any) -> None:
        """`options` are the arguments of Trainer."""
        self.settings = settings
        with warnings.catch_warnings():
            # The task's own loss smooths the labels where an input has several.
            warnings.filterwarnings("ignore", "Label smoothing is not compatible with multi-label", UserWarning)
            super().__init__(**options)

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Group parameters by layer and weight decay; the learning rate is that of `args`, which a search changes."""
        if self.optimizer is None:  # type: ignore[has-type]
            decayed = set(self.get_decay_parameter_names(self.model))
            groups = parameter_groups(
                self.model, self.settings, decayed, self.args.learning_rate, self.args.weight_decay
            )
            self.optimizer = make_optimizer(self.settings, groups, self.args.learning_rate)
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, with a prefix also the base model's config.json for its labels and problem type."""
        super().save_model(output_dir, _internal_call)
        model = self.accelerator.unwrap_model(self.model)
        if self.args.should_save and isinstance(model, peft.PeftModel):
            model.get_base_model().config.save_pretrained(output_dir or self.args.output_dir)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Keep the rows in order, which metrics rely on; Trainer would group them by length."""
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Compute the loss and its gradient, and with adversarial_epsilon add the gradient at moved embeddings.

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
    """The Trainer of tasks whose evaluation generates text."""
