"""Quantize to int8 for OpenVINO with NNCF, calibrated on the user's data."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from tuneport.runtime.batch import Ids

from ..graph import Graph, quiet
from .context import BuildContext, CalibrationBatches

MAX_TOKENS = 128
"""Of a calibration batch: NNCF holds all activations of a batch. At 1,024 tokens MiniLM-L6 took 250 MiB more."""


def nncf_int8(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write model.xml and model.bin, with weights and activations in int8."""
    import nncf
    import openvino

    from tuneport.runtime.backends.openvino import CORE

    model = CORE.read_model(str(graph.path))
    names = [port.any_name for port in model.inputs]
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # NNCF prints progress bars to stdout
        nncf.set_log_level(40)
        batches = list(split_batches(context.calibration_batches, names))
        dataset = nncf.Dataset(batches)
        quantized = nncf.quantize(
            model,
            dataset,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,
        )
        openvino.save_model(quantized, str(folder / "model.xml"), compress_to_fp16=False)
    return Graph(folder, ("model.xml", "model.bin"))


def split_batches(batches: CalibrationBatches, names: list[str]) -> Iterator[dict[str, Ids]]:
    """Yield the named inputs of batches in parts of at most `MAX_TOKENS` padded tokens, or of one row."""
    for batch in batches:
        rows, length = batch[names[0]].shape
        size = max(1, MAX_TOKENS // length)
        for start in range(0, rows, size):
            yield {name: batch[name][start : start + size] for name in names}
