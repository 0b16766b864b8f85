"""Remove layers from a model and train the rest to reproduce the outputs of the full model.

Evenly spaced layers are removed as in Sajjad et al., "On the effect of dropping layers of pre-trained transformer
models" (2023). The loss is the squared error between outputs, as in Kim et al., "Comparing Kullback-Leibler divergence
and mean squared error loss in knowledge distillation" (2021).
"""

import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tuneport.errors import EngineError

from ..graph import Graph
from ..reference import TorchModel
from .context import BuildContext

BATCH_ROWS = 16
LEARNING_RATE = 1e-4
MAX_GRAD_NORM = 1.0
PROGRESS_STEPS = 25
"""Steps between two reports of progress."""


def distilled(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write the graph of the distilled model, trained anew for each variant."""
    assert context.distill is not None  # the variants that use this pass need data
    return context.distill(folder)


def distill(
    teacher: TorchModel,
    parsed_inputs: Sequence[Any],
    *,
    num_layers: int,
    steps: int,
    seed: int,
    progress: Callable[[str], object] = lambda _: None,
) -> Any:
    """Copy the teacher without `num_layers` of its layers and train it on `steps` batches of `parsed_inputs`.

    Raises EngineError if the teacher has not more than `num_layers` layers.
    """
    student = copy.deepcopy(teacher.model)
    prune_layers(student, num_layers)
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(1, steps))
    generator = random.Random(seed)
    for step in range(steps):
        feeds = teacher.encode(generator.sample(list(parsed_inputs), min(BATCH_ROWS, len(parsed_inputs))))
        loss = _output_error(student, teacher.model, feeds, teacher.output_names)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()
        if step % PROGRESS_STEPS == 0:
            progress(f"distilling the pruned model: step {step} of {steps}, error {loss.item():.3g}")
    return student.eval()


def prune_layers(model: Any, num_layers: int) -> list[int]:
    """Remove `num_layers` evenly spaced layers, never the first or the last; returns the indices of those kept."""
    config = getattr(model, "encoder", model).config if hasattr(model.config, "pooling") else model.config
    depth = config.num_hidden_layers
    layers = next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth), None)
    if layers is None or not 0 < num_layers < depth:
        raise EngineError(f"{num_layers} of its {depth} layers cannot be dropped", "lower --prune-layers")
    kept: list[int] = np.unique(np.linspace(0, depth - 1, depth - num_layers).round().astype(int)).tolist()
    for index in sorted(set(range(depth)) - set(kept), reverse=True):
        del layers[index]
    config.num_hidden_layers = len(kept)
    return kept


def _output_error(student: Any, teacher: Any, feeds: dict[str, Any], names: Sequence[str]) -> torch.Tensor:
    """Compute the mean squared error of the outputs, padding excluded."""
    with torch.inference_mode():
        expected = teacher(**feeds)
    outputs = student(**feeds)
    mask = feeds["attention_mask"].bool()
    errors = []
    for name in names:
        square = (outputs[name] - expected[name].clone()).square()
        errors.append(square[mask].mean() if square.shape[:2] == mask.shape else square.mean())
    return torch.stack(errors).mean()
