"""The report of step `speed`, and which floors its figures meet."""

from collections.abc import Sequence

from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice, TorchSetup

from .config import FLOORS, Floor


class WorkloadResult(Frozen):
    """What was measured on one workload."""

    workload: str
    unit: str
    """`ms` a batch, lower is better; or `texts/s`."""
    values: dict[str, float]
    """By target: torch's `eager` and `compiled`, and the variants."""
    factors: dict[str, dict[str, float]]
    """Baseline → variant → how many times as fast it is."""


class FloorResult(Frozen):
    """A floor, and what the fastest variant reached."""

    floor: Floor
    variant: str
    factor: float
    is_met: bool


class SpeedReport(Frozen):
    """What the step writes."""

    name: str
    device: TorchDevice
    baselines: dict[str, TorchSetup]
    compile_s: dict[str, float]
    """Workload → seconds of torch.compile, which are in no timing."""
    not_compiled: dict[str, str]
    """Workload → why torch.compile failed on it."""
    mean_tokens: float
    """Of the mixed lengths."""
    default_variant: str
    workloads: tuple[WorkloadResult, ...]
    differences: dict[str, float | None]
    """Variant → the largest difference of an output from the reference; None if one is not finite."""
    wrong: dict[str, str]
    """Variant → why its outputs are wrong."""
    floors: tuple[FloorResult, ...]

    @property
    def is_passed(self) -> bool:
        """Whether no variant is wrong and every floor is met."""
        return not self.wrong and all(floor.is_met for floor in self.floors)


def check_floors(workloads: Sequence[WorkloadResult], floors: Sequence[Floor] = FLOORS) -> tuple[FloorResult, ...]:
    """Compare the fastest variant of each workload with its floors; a floor without a measurement is missed."""
    by_name = {workload.workload: workload for workload in workloads}
    results = []
    for floor in floors:
        workload = by_name.get(floor.workload)
        factors = workload.factors.get(floor.against, {}) if workload else {}
        variant = max(factors, key=factors.__getitem__, default="")
        factor = factors.get(variant, 0.0)
        results.append(FloorResult(floor=floor, variant=variant, factor=factor, is_met=factor >= floor.factor))
    return tuple(results)
