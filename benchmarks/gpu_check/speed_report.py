"""The report of step `speed`, and which floors its figures meet."""

from collections.abc import Sequence

from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice, TorchSetup

from .config import COMPILED, FLOORS, Floor


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
    """Empty if nothing was measured."""
    factor: float | None
    """None if it was not measured, which fails the check, too."""
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

    def why_not_measured(self, floor: Floor) -> str:
        """Return in words that a floor's figure was not measured, and why where that is known."""
        reason = self.not_compiled.get(floor.workload) if floor.against == COMPILED else None
        return f"not measured (torch.compile failed: {reason})" if reason else "not measured"

    def unmet(self) -> list[str]:
        """Return a line for each floor that is missed or was not measured."""
        lines = []
        for each in self.floors:
            floor = each.floor
            goal = f"the floor is {floor.factor:g} x torch {floor.against}"
            if each.factor is None:
                lines.append(f"{self.why_not_measured(floor)}: {floor.workload}, {goal}")
            elif not each.is_met:
                lines.append(f"missed: {floor.workload}: {each.factor:.2f} x, {goal} ({each.variant})")
        return lines


def check_floors(workloads: Sequence[WorkloadResult], floors: Sequence[Floor] = FLOORS) -> tuple[FloorResult, ...]:
    """Compare the fastest variant of each workload with its floors; one without a measurement is not met."""
    by_name = {workload.workload: workload for workload in workloads}
    results = []
    for floor in floors:
        workload = by_name.get(floor.workload)
        factors = workload.factors.get(floor.against, {}) if workload else {}
        variant = max(factors, key=factors.__getitem__, default="")
        factor = factors.get(variant)
        is_met = factor is not None and factor >= floor.factor
        results.append(FloorResult(floor=floor, variant=variant, factor=factor, is_met=is_met))
    return tuple(results)
