"""Loss functions for class weights and label smoothing, where transformers has none."""

from collections.abc import Callable
from typing import Any

import torch

Loss = Callable[[Any, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(the model's outputs, the targets, the number of targets in the accumulated batch) → the loss."""


class SingleLabelLoss:
    """Cross-entropy with class weights and label smoothing."""

    def __init__(self, weights: torch.Tensor, smoothing: float) -> None:
        """`weights` are those of the classes, float32 (labels,)."""
        self.weights = weights
        self.smoothing = smoothing

    def __call__(
        self, outputs: Any, targets: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the rows, or their sum over `num_items_in_batch`, the rows of an accumulated batch."""
        logits = _logits(outputs)
        losses = torch.nn.functional.cross_entropy(
            logits, targets, weight=self.weights.to(logits), label_smoothing=self.smoothing, reduction="none"
        )
        return losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch


class MultiLabelLoss:
    """Binary cross-entropy with class weights and label smoothing."""

    def __init__(self, weights: torch.Tensor, smoothing: float) -> None:
        """`weights` are those of the classes, float32 (labels,)."""
        self.weights = weights
        self.smoothing = smoothing

    def __call__(
        self, outputs: Any, targets: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over rows and labels."""
        logits = _logits(outputs)
        smoothed = (targets * (1 - self.smoothing) + 0.5 * self.smoothing).to(logits)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            logits, smoothed, pos_weight=self.weights.to(logits)
        )


def _logits(outputs: Any) -> torch.Tensor:
    logits: torch.Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
    return logits
