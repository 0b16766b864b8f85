"""What is timed: a torch baseline, or a variant as it serves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits, candidate_limits
from tuneport.schema.artifact import Device, Precision
from tuneport.schema.torch_setup import TorchSetup

from .reference import TorchModel

_APPROXIMATION: dict[Precision, int] = {"fp32": 0, "bf16": 1, "fp16": 1, "int8": 2, "int4": 3}


@dataclass(frozen=True)
class BenchmarkTarget:
    """A model to time."""

    run_batch: Callable[[Sequence[EncodedInput]], Any]
    """Runs one batch; returns when the outputs are on the host."""
    torch: TorchSetup | None = None
    """Of a baseline; None for a variant."""
    precision: Precision = "fp32"
    device: Device = "cpu"
    streams: int = 1
    """Batches that it runs at the same time."""
    limits: tuple[BatchLimits, ...] = (BatchLimits(),)
    """Batch limits to try first, in ascending order."""
    is_student: bool = False
    """Whether it is a model with fewer layers."""

    @classmethod
    def of_runner(
        cls, runner: ModelRunner, device: Device, precision: Precision, *, is_student: bool = False
    ) -> "BenchmarkTarget":
        """Return a variant as it serves; only an encoder that runs several rows a batch has a choice of limits."""
        has_choice = runner.supports_streams and not runner.single_row_batches
        limits = candidate_limits(runner.limits, device) if has_choice else (runner.limits,)
        return cls(
            runner.run_batch,
            precision=precision,
            device=device,
            streams=runner.streams,
            limits=limits,
            is_student=is_student,
        )

    def with_limits(self, limits: BatchLimits) -> "BenchmarkTarget":
        """Return the same target with the only batch limits that it is timed with."""
        return replace(self, limits=(limits,))

    @classmethod
    def of_torch(cls, model: TorchModel, *, has_batch_choice: bool) -> "BenchmarkTarget":
        """Return a baseline, which has the same choice of limits as the variants of its device."""
        setup = model.setup
        limits = candidate_limits(BatchLimits(), setup.device) if has_batch_choice else (BatchLimits(),)
        return cls(model.run_batch, setup, setup.precision, setup.device, limits=limits)


def distance(precision: Precision, *, is_student: bool) -> tuple[bool, int]:
    """Return how far a variant is from the model as it was trained; a student is further than any precision."""
    return is_student, _APPROXIMATION[precision]
