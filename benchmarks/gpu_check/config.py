"""How much the check does on a device, and what a GPU must reach."""

from dataclasses import dataclass

from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice

MINUTES = 6.0
"""Within which the check ends on an H100."""
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
    random_variants: tuple[str, ...]
    """Variants of the random BERT beside fp32, which takes longest to convert."""
    shapes: tuple[tuple[int, int], ...]
    """(rows, tokens) of the batches to time."""
    mixed_rows: int
    seconds: float
    """For which each batch is timed."""
    compiles: bool
    """Whether torch.compile takes part."""
    bench_inputs: int
    connections: str
    load_seconds: float
    limit_factor: float
    """Of the limits of the steps."""


SCALES: dict[TorchDevice, Scale] = {
    "cuda": Scale(
        train_steps=100, max_length=128, gate_rows=300, layers=12, hidden_size=768,
        random_variants=("fp16", "fp16-packed", "fp16-packed-mha"),
        shapes=((1, 16), (1, 128), (8, 128), (32, 128)), mixed_rows=2000, seconds=0.4, compiles=True,
        bench_inputs=100, connections="1,256", load_seconds=2.0, limit_factor=1,
    ),
    "cpu": Scale(
        train_steps=2, max_length=48, gate_rows=20, layers=2, hidden_size=64, random_variants=("fused",),
        shapes=((1, 16), (2, 32)), mixed_rows=20, seconds=0.02, compiles=False,
        bench_inputs=8, connections="2", load_seconds=0.5, limit_factor=4,
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
