"""Loss functions where the model has none that does what the settings say. Each is a mean, which the Trainer scales.

`TuneportTrainer.compute_loss` is the one place that knows of gradient accumulation and of other processes: it weights
the mean of a batch by the batch's share of the targets of the step.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

Batch = Mapping[str, torch.Tensor]
Loss = Callable[[Any, Batch], torch.Tensor]
"""(the model's outputs, the batch) → the mean over the targets of the batch, a scalar."""
IGNORED = -100
"""Target that the loss ignores: of padding, and of tokens that are not learnt."""


class SingleLabelLoss:
    """Cross-entropy with class weights and label smoothing, of one label a row."""

    def __init__(self, weights: torch.Tensor, smoothing: float) -> None:
        """`weights` are those of the classes, float32 (labels,)."""
        self.weights = weights
        self.smoothing = smoothing

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the mean over the rows; a row counts as one whatever the weight of its class."""
        logits = get_logits(outputs)
        losses = nn.functional.cross_entropy(
            logits, batch["labels"], weight=self.weights.to(logits), label_smoothing=self.smoothing, reduction="none"
        )
        return losses.mean()


class MultiLabelLoss:
    """Binary cross-entropy with class weights and label smoothing, of several labels a row."""

    def __init__(self, weights: torch.Tensor, smoothing: float) -> None:
        """`weights` are those of the classes, float32 (labels,)."""
        self.weights = weights
        self.smoothing = smoothing

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the mean over rows and labels."""
        logits = get_logits(outputs)
        smoothed = (batch["labels"] * (1 - self.smoothing) + 0.5 * self.smoothing).to(logits)
        return nn.functional.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=self.weights.to(logits))


class TokenLoss:
    """Cross-entropy with label smoothing, of a label for each token.

    The Trainer's own smoothing tells by the name of a model's class whether each token predicts the next one, and does
    not know the classes of peft, of adapters and of models with code of their own.
    """

    def __init__(self, smoothing: float, *, predicts_next: bool = False) -> None:
        """`predicts_next` is that of causal language models: a token's logits are for the token after it."""
        self.smoothing = smoothing
        self.predicts_next = predicts_next

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the mean over the labels, int64 (rows, tokens), that are not `IGNORED`."""
        logits, targets = get_logits(outputs), batch["labels"]
        if self.predicts_next:
            logits, targets = logits[:, :-1], targets[:, 1:]
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=self.smoothing
        )


def span_loss(outputs: Any, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of the first and the last token of an answer, over the windows of a batch.

    Padding is no choice. Models let it take part, so that their loss of a window depends on the length of the others.
    """
    logits = [outputs[name].float() for name in ("start_logits", "end_logits")]
    if "attention_mask" in batch:
        logits = [scores.masked_fill(batch["attention_mask"] == 0, -torch.inf) for scores in logits]
    targets = [batch[name] for name in ("start_positions", "end_positions")]
    losses = [nn.functional.cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]
    return torch.stack(losses).mean()


def count_targets(targets: torch.Tensor) -> torch.Tensor:
    """Count the targets that a loss is the mean of: numbers and flags, or labels that are not `IGNORED`."""
    if targets.is_floating_point():  # `IGNORED` is a score like any other
        return torch.tensor(targets.numel(), device=targets.device)
    return (targets != IGNORED).sum()


def get_logits(outputs: Any) -> torch.Tensor:
    """Return the logits of a model's outputs, in transformers' class or in a dict."""
    logits: torch.Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
    return logits
