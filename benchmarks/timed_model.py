"""A model that the engine benchmark times beside torch: a variant of the artifact, or what another tool made."""

from dataclasses import dataclass

from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Device, Footprint, Precision, Variant
from tuneport.stages.export.target import BenchmarkTarget


@dataclass(frozen=True)
class TimedModel:
    """A runner, and what the report says of it."""

    runner: ModelRunner
    precision: Precision
    device: Device = "cpu"
    size_bytes: int | None = None
    footprint: Footprint | None = None
    """None where it was not measured."""

    @classmethod
    def of_variant(cls, variant: Variant, runner: ModelRunner, footprint: Footprint | None) -> "TimedModel":
        """Return a variant as its manifest describes it."""
        execution = variant.execution
        return cls(runner, execution.precision, execution.device, execution.size_bytes, footprint)

    @property
    def target(self) -> BenchmarkTarget:
        """Return it as a target of the benchmark."""
        return BenchmarkTarget.of_runner(self.runner, self.device, self.precision)
