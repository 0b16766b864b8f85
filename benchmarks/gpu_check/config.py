"""How much the check does on a device, and what a GPU must reach."""

from dataclasses import dataclass
from math import inf

from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice

MINUTES, FLOORS_MINUTES = 30.0, 10.0
"""After which no step starts or goes on: of all steps, and of those on which the floors depend."""
WITH_FLOORS, WITHOUT_FLOORS = "floors", "no-floors"
"""Arguments of step `speed`."""
MIXED = "mixed lengths"
EAGER, COMPILED = "eager", "compiled"
"""Names of the baselines: torch as it is, and with torch.compile."""
MEAN_TOKENS = 45


@dataclass(frozen=True)
class Scale:
    """How much each step does."""

    train_steps: int
    max_length: int
    """Tokens of an input of the fine-tuned model."""
    gate_rows: int
    layers: int
    """Of the random BERT; 12 is BERT-base."""
    hidden_size: int
    core_variants: tuple[str, ...]
    """Variants beside fp32 of the short exports, whose steps come first."""
    export_seconds: float
    """Of timing in exports, for each target."""
    shapes: tuple[tuple[int, int], ...]
    """(rows, tokens) of the batches to time."""
    mixed_rows: int
    seconds: float
    """For which each batch is timed."""
    compiles: bool
    """Whether torch.compile takes part."""
    bench_inputs: int
    connections: str
    """Of `bench-endpoint`."""
    endpoint_connections: int
    """Of step `endpoint`."""
    load_seconds: float
    training_steps: int
    """Of each trainer in step `training`."""
    limit_factor: float
    """Of the limits of the steps."""


SCALES: dict[TorchDevice, Scale] = {
    "cuda": Scale(
        train_steps=100, max_length=128, gate_rows=100, layers=12, hidden_size=768,
        core_variants=("fused", "fp16", "fp16-packed"), export_seconds=0.5,
        shapes=((1, 16), (1, 128), (8, 128), (32, 128)), mixed_rows=2000, seconds=0.4, compiles=True,
        bench_inputs=100, connections="1,256", endpoint_connections=256, load_seconds=3.0, training_steps=60,
        limit_factor=1,
    ),
    "cpu": Scale(
        train_steps=2, max_length=48, gate_rows=40, layers=2, hidden_size=64,
        core_variants=("fused",), export_seconds=0.1,
        shapes=((1, 16), (2, 32)), mixed_rows=20, seconds=0.02, compiles=False,
        bench_inputs=8, connections="2", endpoint_connections=4, load_seconds=0.5, training_steps=2,
        limit_factor=4,
    ),
}  # fmt: skip
"""On a CPU the same steps run with as little as possible, to see that each of them works."""


class Floor(Frozen):
    """A speed that a GPU must reach."""

    workload: str
    against: str
    """The baseline: `eager` is torch fp16 with SDPA, `compiled` the same with torch.compile."""
    factor: float


FLOORS = (
    Floor(workload="1 x 16", against=EAGER, factor=3.0),
    Floor(workload="1 x 128", against=EAGER, factor=3.0),
    Floor(workload="8 x 128", against=EAGER, factor=1.4),
    Floor(workload=MIXED, against=EAGER, factor=2.0),
    *(
        Floor(workload=workload, against=COMPILED, factor=1.0)
        for workload in ("1 x 16", "1 x 128", "8 x 128", "32 x 128", MIXED)
    ),
)
"""Of the fastest variant, for each model; there are none on a CPU."""


class EndpointFloor(Frozen):
    """A bound on a figure of step `endpoint`."""

    figure: str
    """Of `EndpointFigures`."""
    title: str
    least: float = 0.0
    most: float = inf

    def is_met(self, value: float) -> bool:
        """Tell whether a figure is within the bound."""
        return self.least <= value <= self.most

    @property
    def bound(self) -> str:
        """Return the bound in words."""
        return f"at least {self.least:,g}" if self.least else f"at most {self.most:g}"


ENDPOINT_FLOORS = (
    EndpointFloor(figure="requests_per_s", title="requests/s of one text each", least=8000),
    EndpointFloor(figure="added_ms", title="ms that the service adds to a text of 16 tokens, p50", most=1.0),
)
"""Of a GPU, for the fine-tuned model in its default variant."""
