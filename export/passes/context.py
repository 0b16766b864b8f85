"""Define graph passes and what they are built with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tuneport.runtime.batch import Ids
from tuneport.schema.artifact import Device, Student

from ..config import CalibrationMethodName
from ..graph import Graph

CalibrationBatches = Sequence[Mapping[str, Ids]]
"""Padded batches of the user's data: input name → int64 (rows, tokens)."""


@dataclass(frozen=True)
class BuildContext:
    """What the variants of one export are built from."""

    fp32: Graph
    """The fp32 graph, which has passed its gate."""
    calibration_batches: CalibrationBatches
    calibration_method: CalibrationMethodName
    smoothquant: bool
    """Whether the pass `smoothquant` changes the graph before static quantization."""
    model_type: str
    num_heads: int
    hidden_size: int
    device: Device = "cpu"
    """Where the artifact will serve: some operators are fused for GPUs only."""
    per_token: bool = False
    """Whether outputs have a value for each token."""
    student: "StudentSource | None" = None
    """None for generative models, and if there is no data."""
    export_fp16: Callable[[Path], Graph] | None = None
    """Convert the torch model, with its weights in fp16, into a folder; of generative models."""
    reduce_range: bool = False
    """Whether int8 weights use 7 bits, which depends on the processor that the artifact is for."""
    excluded_nodes: tuple[str, ...] = ()
    """Nodes that quantization leaves in fp32."""


class StudentSource(Protocol):
    """The student of an export, which its variants share."""

    @property
    def record(self) -> Student:
        """How it was made, once it has been written."""

    def check(self) -> None:
        """Raise EngineError with the reason why a student is not worth its training, if that is known before it."""

    def make(self) -> None:
        """Find or train it, once; that there is none is told by `write`."""

    def write(self, folder: Path) -> Graph:
        """Write the fp32 graph into a folder; raises EngineError with the reason why there is no student."""


Pass = Callable[[Graph, BuildContext, Path], Graph]
"""Transform a graph and write the result into a folder."""
