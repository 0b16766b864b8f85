"""An fp32 graph to OpenVINO's int8 by NNCF, calibrated on the user's data."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import nncf
import openvino

from export.to_onnx import quiet
from serve.openvino import CORE
from serve.tokenizer import Ids


def quantize_nncf(fp32: Path, folder: Path, feeds: Sequence[Mapping[str, Ids]]) -> list[str]:
    """Write model.xml and model.bin, weights and activations in int8; returns their names.

    `feeds` are padded batches as engines take them.
    """
    model = CORE.read_model(str(fp32))
    names = [port.any_name for port in model.inputs]
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # its progress bars are not results
        nncf.set_log_level(40)
        dataset = nncf.Dataset([{name: each[name] for name in names} for each in feeds])
        quantized = nncf.quantize(
            model,
            dataset,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(feeds),
            preset=nncf.QuantizationPreset.MIXED,
        )
        openvino.save_model(quantized, str(folder / "model.xml"), compress_to_fp16=False)
    return ["model.xml", "model.bin"]
