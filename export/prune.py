"""A shallower student: some of the layers dropped, then taught by the full model to give its outputs.

Dropping evenly spread layers and training briefly on is Sajjad et al., "On the effect of dropping layers of
pre-trained transformer models" (2023); the teacher's outputs as targets of a squared error is Kim et al., "Comparing
Kullback-Leibler divergence and mean squared error loss in knowledge distillation" (2021).
"""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from export.files import EngineError
from export.reference import TorchModel

BATCH = 16
RATE = 1e-4
TOLD_EVERY = 25
"""Steps."""


def prune(
    teacher: TorchModel,
    given: Sequence[Any],
    *,
    drop: int,
    steps: int,
    seed: int,
    progress: Callable[[str], object] = lambda _: None,
) -> Any:
    """Return a torch model without `drop` of the teacher's layers, after `steps` batches of `given`, train's inputs.

    Raises EngineError for a model that has no more layers than that.
    """
    student = copy.deepcopy(teacher.model)
    drop_layers(student, drop)
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(1, steps))
    chance = random.Random(seed)
    for step in range(steps):
        feeds = teacher.encode(chance.sample(list(given), min(BATCH, len(given))))
        loss = _gap(student, teacher.model, feeds, teacher.outputs_named)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()
        if step % TOLD_EVERY == 0:
            progress(f"teaching the pruned model: step {step} of {steps}, error {loss.item():.3g}")
    return student.eval()


def drop_layers(model: Any, drop: int) -> list[int]:
    """Remove `drop` layers between the first and the last, evenly; returns the indices of those that stay."""
    config = getattr(model, "encoder", model).config if hasattr(model.config, "pooling") else model.config
    depth = config.num_hidden_layers
    layers = next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth), None)
    if layers is None or not 0 < drop < depth:
        raise EngineError(f"{drop} of its {depth} layers cannot be dropped", "lower --drop-layers")
    kept = np.unique(np.linspace(0, depth - 1, depth - drop).round().astype(int)).tolist()
    for index in sorted(set(range(depth)) - set(kept), reverse=True):
        del layers[index]
    config.num_hidden_layers = len(kept)
    return kept


def _gap(student: Any, teacher: Any, feeds: dict[str, Any], names: Sequence[str]) -> torch.Tensor:
    """Mean squared difference of the outputs, padding apart."""
    with torch.inference_mode():
        wanted = teacher(**feeds)
    made = student(**feeds)
    mask = feeds["attention_mask"].bool()
    gaps = []
    for name in names:
        square = (made[name] - wanted[name].clone()).square()
        gaps.append(square[mask].mean() if square.shape[:2] == mask.shape else square.mean())
    return torch.stack(gaps).mean()
