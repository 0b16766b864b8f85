"""Engines: run one padded batch of a variant's graph. No torch, and of the engines only the one that is needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from export.files import EngineError
from export.manifest import Variant
from serve.tokenizer import Ids

Output = npt.NDArray[np.float32]


class Engine(Protocol):
    """One loaded variant."""

    streams: int
    """How many batches may run at a time."""
    step: int
    """Lengths that are multiples of it are worth some padding: the engine prepares itself for every new shape."""

    def run(self, feeds: Mapping[str, Ids]) -> dict[str, Output]:
        """Run the graph on int64 arrays (rows, tokens); returns every output by name, rows first."""


def open_engine(folder: Path, variant: Variant, *, threads: int | None = None) -> Engine:
    """Open the engine that the manifest names for a variant; an EngineError if it is not installed."""
    path = folder / variant.files[0].path
    if variant.engine == "openvino":
        try:
            from serve.openvino import OpenVinoEngine
        except ModuleNotFoundError as error:
            raise EngineError(
                f"variant {variant.name} needs OpenVINO", "install tuneport[openvino], or serve another variant"
            ) from error
        return OpenVinoEngine(path, precision=variant.precision, threads=threads, streams=variant.streams)
    from serve.ort import OrtEngine

    return OrtEngine(path, device=variant.device, threads=threads, streams=variant.streams)
