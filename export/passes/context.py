"""Define graph passes and what they are built with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneport.runtime.batch import Ids
from tuneport.schema.artifact import Device

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
    distill: Callable[[Path], Graph] | None = None
    """Train a model with fewer layers and convert it into a folder; None if there is no data to train it on."""
    export_fp16: Callable[[Path], Graph] | None = None
    """Convert the torch model, with its weights in fp16, into a folder; of generative models."""
    reduce_range: bool = False
    """Whether int8 weights use 7 bits, which depends on the processor that the artifact is for."""
    excluded_nodes: tuple[str, ...] = ()
    """Nodes that quantization leaves in fp32."""


Pass = Callable[[Graph, BuildContext, Path], Graph]
"""Transform a graph and write the result into a folder."""
