"""Settings of the benchmarks: the one declaration that the command line and the Python API read."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice

Connections = Annotated[int, Field(ge=1)]


class BenchConfig(Frozen):
    """One benchmark of the variants of an artifact."""

    artifact: Path
    """An artifact folder that `tuneport export` wrote."""
    data: str | None = None
    """Labelled data. Default: what the artifact was validated with."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column of the task → column of the data, where they differ."""
    checkpoint: Path | None = None
    """The torch checkpoint. Default: the folder that the artifact was exported from."""
    num_inputs: int = Field(default=300, ge=1)
    """Inputs to time, the first ones of the data."""
    rounds: int = Field(default=3, ge=1)
    """Rounds, in each of which every target is timed once."""
    device: TorchDevice | None = None
    """Whose variants to time: cpu, or cuda with TensorRT's. Default: those of the default variant's device."""
    torch_compile: bool = False
    """Also time torch.compile; the report has the seconds that it compiles."""


class EndpointConfig(Frozen):
    """One benchmark of whole servers under load."""

    artifact: Path
    """An artifact folder that `tuneport export` wrote."""
    data: str | None = None
    """Labelled data. Default: what the artifact was validated with."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column of the task → column of the data, where they differ."""
    checkpoint: Path | None = None
    """The torch checkpoint. Default: the folder that the artifact was exported from."""
    variant: str | None = None
    """The variant to serve. Default: the artifact's default variant."""
    connections: tuple[Connections, ...] = Field(default=(1, 8, 32), min_length=1)
    """Numbers of concurrent connections, each of which is timed."""
    seconds: float = Field(default=10.0, gt=0)
    """Seconds of load for each number of connections, after one second of warm-up."""
    rounds: int = Field(default=3, ge=1)
    """Rounds, in each of which every server is started and timed once."""
    num_inputs: int = Field(default=1000, ge=1)
    """Inputs to send in turn, the first ones of the data."""
