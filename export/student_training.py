"""Train the student of an export: how many layers it keeps, on which rows, and when there is none."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tuneport.errors import DataError, EngineError, InputError
from tuneport.folders import digest
from tuneport.schema.artifact import Student

from .config import ExportConfig
from .gate import Measurement
from .passes.distill import Distiller, layers_of
from .passes.distill import Student as TorchStudent
from .source import Reference, Source, read_split
from .variants import STUDENT_AGREEMENT

MIN_LAYERS = 3
"""A model with fewer has none to spare."""
REMEDY = "leave out pruned variants"
MIN_TRAIN_ROWS, MAX_TRAIN_ROWS = 100, 20_000
MIN_SPEED_UP = 1.15
"""How many times as fast as the full model a student must be in torch: each of its variants takes time to export."""
MAX_HALFWAY_DROPS, MIN_HALFWAY_AGREEMENT = 4, 0.8
"""How many times the allowed drop a student may lose after half of its training, and the share of torch's answers that
it must give then; the rest of the training does not make up for more."""


@dataclass(frozen=True)
class Trained:
    """A student after some training, compared with torch as the gate compares variants."""

    student: TorchStudent
    steps: int
    seconds: float
    measurement: Measurement

    def loses_at_most(self, drop: float, min_agreement: float = STUDENT_AGREEMENT) -> bool:
        """Tell whether it loses no more of the metric than that, and gives enough of torch's answers."""
        metric = self.measurement.metric
        return metric is not None and metric.drop <= drop and self.measurement.parity.agreement >= min_agreement


def train_student(
    config: ExportConfig, reference: Reference, inputs: Sequence[Any], progress: Callable[[str], object]
) -> tuple[Trained, Student]:
    """Return a torch model with fewer layers, trained on `train_inputs`, and the record of its training.

    It first leaves out a third of the layers and is trained for half of the time. If it then loses at most half of what
    a variant may lose, because quantization costs something, too, it is trained without half of the layers for the rest
    of the time; else it goes on with those it has. Raises EngineError with the reason why there is no student.
    """
    distiller = Distiller(
        reference.model, inputs, per_token=reference.runtime_task.per_token, seed=config.seed, progress=progress
    )
    if config.prune_layers is None:
        _check_depth(len(distiller.full.layers))
    first, *more = cuts(len(distiller.full.layers), config.prune_layers)
    student = distiller.full.without(first)
    if config.prune_layers is None and (speed_up := distiller.speed_up(student, enough=MIN_SPEED_UP)) < MIN_SPEED_UP:
        problem = f"without {first} of its {len(distiller.full.layers)} layers it is only {speed_up:.2f} times as fast"
        raise EngineError(problem, REMEDY)
    share = 1 / (1 + len(more))

    def train(student: TorchStudent, before: Trained | None = None) -> Trained:
        started, limit_s = time.monotonic(), 60 * config.distill_minutes * share
        steps = distiller.train(student, steps=round(config.distill_steps * share), seconds=limit_s)
        seconds = time.monotonic() - started
        if before:
            steps, seconds = steps + before.steps, seconds + before.seconds
        measurement = reference.gate.measure_torch(reference.model.with_model(student.model))
        return Trained(student, steps, seconds, measurement)

    chosen = train(student)
    for second in more:
        if chosen.loses_at_most(config.max_drop / 2):
            smaller = train(chosen.student.without(second - first), chosen)
            chosen = smaller if smaller.loses_at_most(config.max_drop / 2) else chosen
        elif chosen.loses_at_most(MAX_HALFWAY_DROPS * config.max_drop, MIN_HALFWAY_AGREEMENT):
            chosen = train(chosen.student, chosen)
        else:
            raise EngineError(_describe_loss(chosen, len(distiller.full.layers)), "raise --distill-minutes")
    record = Student(
        layers=chosen.student.layers,
        full_layers=len(distiller.full.layers),
        rows=len(inputs),
        steps=chosen.steps,
        seconds=round(chosen.seconds, 1),
    )
    return chosen, record


def cuts(depth: int, prune_layers: int | None) -> list[int]:
    """Return how many of the layers to leave out: what the user says; else a third, then half of them."""
    return [prune_layers] if prune_layers else sorted({depth // 3, depth // 2})


def check_worth(config: ExportConfig, source: Source, reference: Reference) -> Sequence[Any]:
    """Return the inputs that a student is trained on.

    Raises EngineError with the reason why one that nobody named is not worth its training.
    """
    _check_depth(len(layers_of(reference.model.model)))
    if not config.distill_minutes:
        raise EngineError("there is no time to train a student", "raise --distill-minutes")
    inputs = train_inputs(config, source, reference)
    if len(inputs) < MIN_TRAIN_ROWS:
        problem = f"a student is trained on {MIN_TRAIN_ROWS} rows or more that the gate does not use"
        raise EngineError(f"{problem}, and the train split has {len(inputs)}", "give more rows in the train split")
    return inputs


def _check_depth(depth: int) -> None:
    if depth < MIN_LAYERS:
        raise EngineError(f"a student needs a model of {MIN_LAYERS} layers or more, and this one has {depth}", REMEDY)


def train_inputs(config: ExportConfig, source: Source, reference: Reference) -> Sequence[Any]:
    """Return the parsed inputs of the train split without those of the gate.

    Raises EngineError with the reason why no student can be trained on them.
    """
    try:
        sample = read_split(config, source.checkpoint, source.task, "train", MAX_TRAIN_ROWS)
    except DataError as error:
        raise EngineError(f"a student is trained on the train split: {error.problem}", error.remedy) from error
    if config.data is not None and sample.is_drawn:
        problem = f"a student is trained on a train split, which {config.data} does not have"
        raise EngineError(problem, "give a folder with a train file")
    judged = {digest(repr(each)) for each in source.sample.inputs}
    inputs = []
    for each in sample.inputs:
        if digest(repr(each)) not in judged:
            with contextlib.suppress(InputError):  # what the service would refuse, such as a text of spaces alone
                inputs.append(reference.runtime_task.parse_input(each))
    if not inputs:
        raise EngineError("the train split has no rows that the gate does not use", "give a train split of its own")
    return inputs


def _describe_loss(trained: Trained, depth: int) -> str:
    metric, agreement = trained.measurement.metric, trained.measurement.parity.agreement
    lost = f"loses {metric.drop:.4f} of {metric.name} and " if metric else ""
    return (
        f"a student with {len(trained.student.layers)} of {depth} layers {lost}gives {agreement:.1%} of torch's answers"
    )
