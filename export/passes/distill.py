"""Remove layers from a model and train the rest to compute what the full model computes.

Evenly spaced layers are removed as in Sajjad et al., "On the effect of dropping layers of pre-trained transformer
models" (2023). The loss is the squared error of the outputs, as in Kim et al., "Comparing Kullback-Leibler divergence
and mean squared error loss in knowledge distillation" (2021), plus those of hidden states and attention, as in Jiao et
al., "TinyBERT" (2020).
"""

import contextlib
import copy
import inspect
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tuneport.errors import EngineError
from tuneport.host import Host

from ..graph import Graph, quiet
from ..reference import TorchModel
from .context import BuildContext

BATCH_ROWS = 16
BATCH_TOKENS = 2048
"""Of long inputs, and of those that are read in several windows, fewer rows are taken."""
PART_TOKENS = 512
"""A batch runs in parts whose gradients are added up: hidden states and attention of all layers of teacher and student
are in memory at once."""
LENGTH_MULTIPLE = 16
"""Of the padded length. Torch keeps code and memory for each shape it has met: hundreds of MiB for all lengths."""
SORTED_BATCHES = 8
"""Batches whose rows are sorted by length together, so that they have little padding."""
LEARNING_RATE = 2e-4
WARM_UP_STEPS = 10
MAX_GRAD_NORM = 1.0
PROGRESS_STEPS = 10
"""Steps between two reports of progress."""


@dataclass(frozen=True)
class Student:
    """A model with some of the layers of the full one."""

    model: Any
    layers: tuple[int, ...]
    """Indices of the layers of the full model that it began with."""

    def without(self, num_layers: int) -> "Student":
        """Return a copy without `num_layers` of its layers."""
        model = copy.deepcopy(self.model)
        kept = prune_layers(model, num_layers)
        return Student(model, tuple(self.layers[index] for index in kept))


def distilled(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write the graph of the student, which all variants of an export share."""
    assert context.student is not None  # the variants that use this pass need data
    return context.student.write(folder)


class Distiller:
    """Trains students to compute what a torch model computes on the user's texts."""

    def __init__(
        self,
        teacher: TorchModel,
        parsed_inputs: Sequence[Any],
        *,
        per_token: bool,
        seed: int,
        progress: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Keep the teacher and what students are trained on; `per_token` as of runtime tasks."""
        self.full = Student(teacher.model, tuple(range(len(layers_of(teacher.model)))))
        self._teacher = teacher
        self._inputs = parsed_inputs
        self._per_token = per_token
        self._random = random.Random(seed)
        self._progress = progress
        parameters = inspect.signature(teacher.model.forward).parameters
        self._options = {"output_attentions": True} if "output_attentions" in parameters else {}

    def train(self, student: Student, *, steps: int, seconds: float) -> int:
        """Train a student for at most so many steps and seconds; returns the steps.

        The learning rate falls linearly to zero over the steps or the seconds, whichever end first.
        """
        student.model.requires_grad_(True)
        # Half of the weights of a small model: the layers are what has to change, and AdamW takes 12 bytes a weight.
        student.model.get_input_embeddings().requires_grad_(False)
        trained = [each for each in student.model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
        batches, started, step = self._batches(), time.monotonic(), 0
        while step < steps and (elapsed := time.monotonic() - started) < seconds:
            share = max(step / steps, elapsed / seconds)
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 - share) * min(1.0, (step + 1) / WARM_UP_STEPS)
            error = 0.0
            for share_of_rows, part in split_rows(next(batches)):
                loss = share_of_rows * self._loss(student, part)
                loss.backward()  # type: ignore[no-untyped-call]
                error += loss.item()
            nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad()
            if step % PROGRESS_STEPS == 0:
                self._progress(
                    f"training a student of {len(student.layers)} layers: step {step}, error {error:.3g}, "
                    f"at most {seconds - elapsed:.0f} s left"
                )
            step += 1
        student.model.eval()
        return step

    def speed_up(self, student: Student, *, enough: float, repetitions: int = 12) -> float:
        """Return how many times as fast as the full model a student is in torch, on one batch.

        The shortest times count, and it is timed until they say `enough`: other work on the machine hides a speed-up.
        """
        feeds = next(self._batches())
        seconds: dict[str, list[float]] = {"full": [], "student": []}
        with torch.inference_mode():
            for repetition in range(repetitions + 1):
                for name, model in (("full", self.full.model), ("student", student.model)):
                    started = time.perf_counter()
                    model(**feeds)
                    seconds[name].append(time.perf_counter() - started)
                if repetition and (found := min(seconds["full"][1:]) / min(seconds["student"][1:])) >= enough:
                    break
        return found

    def _batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield tokenized batches without end, each pass over the inputs in another order."""
        size = BATCH_ROWS * SORTED_BATCHES
        while True:
            order = self._random.sample(range(len(self._inputs)), len(self._inputs))
            chunks = [sorted(order[at : at + size], key=self._length) for at in range(0, len(order), size)]
            ordered = [index for chunk in chunks for index in chunk]
            batches = [ordered[at : at + BATCH_ROWS] for at in range(0, len(ordered), BATCH_ROWS)]
            for batch in self._random.sample(batches, len(batches)):
                feeds = self._teacher.encode([self._inputs[index] for index in batch], multiple=LENGTH_MULTIPLE)
                rows = max(1, BATCH_TOKENS // feeds["attention_mask"].shape[1])
                yield {name: values[:rows] for name, values in feeds.items()}

    def _length(self, index: int) -> int:
        return len(str(self._inputs[index]))

    def _loss(self, student: Student, feeds: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add the errors of outputs, of hidden states and, where the architecture returns it, of attention."""
        mask = feeds["attention_mask"]
        is_bf16 = mask.device.type == "cpu" and Host.here().has_bf16
        with quiet(), torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            with torch.no_grad(), captured(self.full.model) as expected_states:
                expected = self.full.model(**feeds, **self._options)
            with captured(student.model) as states:
                outputs = student.model(**feeds, **self._options)
        mask_of_outputs = mask if self._per_token else None
        pairs = [(outputs[name], expected[name]) for name in self._teacher.output_names]
        errors = [_mean_square(ours - theirs, mask_of_outputs) for ours, theirs in pairs]
        # What a layer passes on is what the next kept layer was trained to receive.
        sources = [expected_states[after - 1] for after in (*student.layers[1:], len(self.full.layers))]
        hidden = [
            _mean_square(ours - theirs, mask) / _mean_square(theirs, mask)
            for ours, theirs in zip(states, sources, strict=True)
        ]
        attention = [
            _mean_square(ours - expected["attentions"][index], None) * ours.shape[-1]
            for ours, index in zip(outputs.get("attentions") or (), student.layers, strict=False)
        ]
        return sum(torch.stack(each).mean() for each in (errors, hidden, attention) if each)  # type: ignore[return-value]


def split_rows(feeds: dict[str, torch.Tensor]) -> Iterator[tuple[float, dict[str, torch.Tensor]]]:
    """Yield parts of a batch of at most `PART_TOKENS` padded tokens, or of one row, each with its share of the rows."""
    rows, length = feeds["attention_mask"].shape
    size = max(1, PART_TOKENS // length)
    for start in range(0, rows, size):
        part = {name: values[start : start + size] for name, values in feeds.items()}
        yield len(part["attention_mask"]) / rows, part


def layers_of(model: Any) -> nn.ModuleList:
    """Find the layers of a transformer; raises EngineError if there is no list of them."""
    depth = _layer_config(model).num_hidden_layers
    layers = next((each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == depth), None)
    if layers is None:
        raise EngineError(f"{model.config.model_type} has no list of {depth} layers", "leave out pruned variants")
    return layers


def prune_layers(model: Any, num_layers: int) -> list[int]:
    """Remove `num_layers` evenly spaced layers, never the first or the last; returns the indices of those kept."""
    layers = layers_of(model)
    depth = len(layers)
    if not 0 < num_layers < depth:
        raise EngineError(f"{num_layers} of its {depth} layers cannot be dropped", "lower --prune-layers")
    kept: list[int] = np.unique(np.linspace(0, depth - 1, depth - num_layers).round().astype(int)).tolist()
    for index in sorted(set(range(depth)) - set(kept), reverse=True):
        del layers[index]
    _layer_config(model).num_hidden_layers = len(kept)
    return kept


@contextlib.contextmanager
def captured(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the hidden states that each layer of a model returns, (rows, tokens, hidden), in a run."""
    states: list[torch.Tensor] = []

    def keep(layer: nn.Module, inputs: Any, outputs: Any) -> None:
        states.append(outputs[0] if isinstance(outputs, tuple) else outputs)

    hooks = [layer.register_forward_hook(keep) for layer in layers_of(model)]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def _layer_config(model: Any) -> Any:
    """Return the configuration that has the number of layers; a pooling head has its encoder's."""
    return getattr(model, "encoder", model).config if hasattr(model.config, "pooling") else model.config


def _mean_square(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean square of values, of one or more values a token without those of padding."""
    square = values.float().square()
    if mask is None or square.shape[:2] != mask.shape:  # XLNet's hidden states have their tokens first
        return square.mean()
    return (square.reshape(*mask.shape, -1).mean(-1) * mask).sum() / mask.sum()
