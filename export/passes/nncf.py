"""Quantize to int8 for OpenVINO with NNCF, calibrated on the user's data."""

import contextlib
import io
from pathlib import Path

from ..graph import Graph, quiet
from .context import BuildContext


def nncf_int8(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Write model.xml and model.bin, with weights and activations in int8."""
    import nncf
    import openvino

    from tuneport.runtime.backends.openvino import CORE

    model = CORE.read_model(str(graph.path))
    names = [port.any_name for port in model.inputs]
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # NNCF prints progress bars to stdout
        nncf.set_log_level(40)
        dataset = nncf.Dataset([{name: each[name] for name in names} for each in context.calibration_batches])
        quantized = nncf.quantize(
            model,
            dataset,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(context.calibration_batches),
            preset=nncf.QuantizationPreset.MIXED,
        )
        openvino.save_model(quantized, str(folder / "model.xml"), compress_to_fp16=False)
    return Graph(folder, ("model.xml", "model.bin"))
