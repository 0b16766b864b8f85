"""Measures the speed of training steps, apart from the first one and from evaluations."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneport.schema.run import Throughput

from .losses import IGNORED


class StepMeter(TrainerCallback):
    """Counts steps, rows and tokens of this process, and the time that they take.

    The clock stops for evaluations and checkpoints. A GPU is waited for only then, and after the first step.
    """

    def __init__(self, *, counts_targets: bool) -> None:
        """`counts_targets` is for tasks whose targets are texts."""
        self.counts_targets = counts_targets
        self.first_step_seconds: float | None = None
        self.seconds = 0.0
        self.steps = self.rows = 0
        self.tokens: torch.Tensor | int = 0
        self._started: float | None = None

    def count(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """Count the batches of the next step; those of the first one are not."""
        if self.first_step_seconds is None:
            return
        for batch in batches:
            self.rows += len(next(iter(batch.values())))
            self.tokens = self.tokens + count_tokens(batch, with_targets=self.counts_targets)

    def throughput(self, accelerator: Any) -> Throughput | None:
        """Return the speed of all processes together, each of which must call it; None for one step or none."""
        if self.first_step_seconds is None or not self.steps or not self.seconds:
            return None
        counts = torch.tensor([self.rows, int(self.tokens)], device=accelerator.device)
        rows, tokens = accelerator.reduce(counts, reduction="sum").tolist()
        return Throughput(
            first_step_seconds=round(self.first_step_seconds, 3),
            steps_per_s=round(self.steps / self.seconds, 3),
            samples_per_s=round(rows / self.seconds, 1),
            tokens_per_s=round(tokens / self.seconds, 1) if tokens else None,
        )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, unless it runs since the step before, so that loading batches is counted."""
        if self._started is None:
            self._started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the time of the first step; stop the clock before an evaluation or a checkpoint."""
        if self.first_step_seconds is None:
            self._stop()
            self.first_step_seconds, self.seconds = self.seconds, 0.0
            return
        self.steps += 1
        if control.should_evaluate or control.should_save:
            self._stop()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the clock: an evaluation or a checkpoint may follow."""
        self._stop()

    def _stop(self) -> None:
        if self._started is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._started
        self._started = None


def count_tokens(batch: Mapping[str, Any], *, with_targets: bool) -> torch.Tensor | int:
    """Count the tokens of a batch without padding, on its device; 0 for inputs that are not tokens."""
    tokens: torch.Tensor | int = 0
    if "input_ids" in batch:
        tokens = batch["attention_mask"].sum() if "attention_mask" in batch else batch["input_ids"].numel()
    return tokens + (batch["labels"] != IGNORED).sum() if with_targets else tokens
