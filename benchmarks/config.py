"""Settings of the benchmarks: the one declaration that the command line and the Python API read."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice

SHAPES = (
    "1x8", "1x16", "1x32", "1x64", "1x128", "1x256", "1x512", "8x128", "32x64", "128x128",
)  # fmt: skip
"""One row of every length shows how latency grows; the others are batches."""
Connections = Annotated[int, Field(ge=1)]


class BenchConfig(Frozen):
    """One benchmark of the variants of an artifact."""

    artifact: Path
    """An artifact folder that `tuneport export` wrote."""
    data: str | None = None
    """Labelled data. Default: what the artifact was validated with."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column of the task → column of the data, where they differ."""
    splits: dict[str, str] = Field(default_factory=dict)
    """Split (train, validation, test) → its name in the data, where it is another: test=holdout."""
    checkpoint: Path | None = None
    """The torch checkpoint. Default: the folder that the artifact was exported from."""
    trust_remote_code: bool = False
    """Run Python code from the checkpoint's repository."""
    num_inputs: int = Field(default=300, ge=1)
    """Inputs to time, the first ones of the data."""
    precision: float = Field(default=0.05, gt=0, lt=1)
    """How wide the confidence interval of a speed-up may be to either side, as a share of it."""
    max_seconds: float = Field(default=4.0, gt=0)
    """Seconds for each target after which the machine is called too noisy for that."""
    rounds: int | None = Field(default=None, ge=1)
    """Most passes over the inputs, to be done sooner. Default: as many as the intervals need."""
    shapes: tuple[str, ...] = SHAPES
    """Batches of fixed shape, rows x tokens, that are timed as well; those longer than the model's maximum are not."""
    remeasure: bool = False
    """Time everything, even if the export did so on this machine within the last hour."""
    device: TorchDevice | None = None
    """Whose variants to time: cpu, or cuda with TensorRT's. Default: those of the default variant's device."""
    torch_compile: bool = False
    """Also time torch.compile; the report has the seconds that it compiles."""
    peers: Path | None = None
    """Also time what Olive, Optimum, CTranslate2 and ONNX Runtime GenAI make of the checkpoint, with the environments
    in this folder, which python -m tuneport.stages.benchmarks.peers.install made. Default: not."""


class EndpointConfig(Frozen):
    """One benchmark of whole servers under load."""

    artifact: Path
    """An artifact folder that `tuneport export` wrote."""
    data: str | None = None
    """Labelled data. Default: what the artifact was validated with."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column of the task → column of the data, where they differ."""
    splits: dict[str, str] = Field(default_factory=dict)
    """Split (train, validation, test) → its name in the data, where it is another: test=holdout."""
    checkpoint: Path | None = None
    """The torch checkpoint. Default: the folder that the artifact was exported from."""
    trust_remote_code: bool = False
    """Run Python code from the checkpoint's repository."""
    variant: str | None = None
    """The variant to serve. Default: TUNEPORT_VARIANT, else the artifact's default variant."""
    connections: tuple[Connections, ...] = Field(default=(1, 8, 32), min_length=1)
    """Numbers of concurrent connections, each of which is timed."""
    seconds: float = Field(default=10.0, gt=0)
    """Seconds of load for each number of connections, after one second of warm-up."""
    rounds: int = Field(default=3, ge=1)
    """Rounds, in each of which every server is started and timed once."""
    num_inputs: int = Field(default=1000, ge=1)
    """Inputs to send in turn, the first ones of the data."""
    slo_p99_ms: float | None = Field(default=None, gt=0)
    """Search for the highest rate of random arrivals at which p99 stays within it. Default: no search."""
    peers: Path | None = None
    """Folder of the environments that python -m tuneport.stages.benchmarks.peers.install made. Default: no peers."""


class PlanConfig(Frozen):
    """A traffic, and the report whose figures say what carries it."""

    rate: float = Field(gt=0)
    """Requests a second at the busiest time."""
    p99_ms: float = Field(gt=0)
    """What p99 of the latency may be, in milliseconds."""
    report: Path
    """A report of bench-endpoint, report.json or its folder."""
    headroom: float = Field(default=0.2, ge=0, lt=1)
    """Share of each machine's capacity that is kept free, for uneven balancing and failures."""
    cost_per_hour: float | None = Field(default=None, ge=0)
    """Cost of one machine like that of the report, in any currency. Default: no costs."""
    helm_values: Path | None = None
    """File to write with values for the Helm chart: the replicas, and processors and memory of each. Default: none."""
