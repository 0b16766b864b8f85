"""The figures of step `endpoint`, and which floors they meet."""

from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice

from .config import ENDPOINT_FLOORS, EndpointFloor


class EndpointFigures(Frozen):
    """What the step writes. Figures are None as long as they are not measured."""

    device: TorchDevice
    variant: str
    workers: int
    """They share one engine process."""
    clients: int
    """Processes of the load generator, on the same machine."""
    connections: int
    mean_tokens: float
    """Of the texts of the load."""
    client_ceiling_per_s: float | None = None
    """Requests/s of the clients against servers that do no work."""
    requests_per_s: float | None = None
    latency_ms_p50: float | None = None
    """Under that load."""
    short_tokens: int | None = None
    short_ms_p50: float | None = None
    """One text of so many tokens, on one connection."""
    engine_ms_p50: float | None = None
    """The same row in the engine alone."""

    @property
    def added_ms(self) -> float | None:
        """What the service adds to the engine's time for the short text."""
        if self.short_ms_p50 is None or self.engine_ms_p50 is None:
            return None
        return round(self.short_ms_p50 - self.engine_ms_p50, 3)

    @property
    def floors(self) -> dict[EndpointFloor, float | None]:
        """The floors and what was reached, None if it was not measured; there are no floors on a CPU."""
        return {floor: getattr(self, floor.figure) for floor in ENDPOINT_FLOORS if self.device == "cuda"}

    def missed(self) -> dict[str, str]:
        """Return the figures that miss their floors, and by how much."""
        return {
            floor.figure: f"{value:g}, the floor is {floor.bound}{self._excuse(floor)}"
            for floor, value in self.floors.items()
            if value is not None and not floor.is_met(value)
        }

    def not_measured(self) -> tuple[str, ...]:
        """Return the figures with a floor that were not measured, which fails the check, too."""
        return tuple(floor.figure for floor, value in self.floors.items() if value is None)

    def unmet(self) -> list[str]:
        """Return a line for each floor that is missed or was not measured."""
        missed = [f"missed: {figure} is {reason}" for figure, reason in self.missed().items()]
        return missed + [f"not measured: {figure}" for figure in self.not_measured()]

    def _excuse(self, floor: EndpointFloor) -> str:
        ceiling = self.client_ceiling_per_s
        if floor.figure != "requests_per_s" or ceiling is None or floor.is_met(ceiling):
            return ""
        return f", and the load generator itself reaches {ceiling:g}: this machine cannot show more"
