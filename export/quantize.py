"""int8, dynamic: weights quantized once per channel, activations as they come. Through Optimum."""

import shutil
import tempfile
from pathlib import Path

from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

from export.to_onnx import quiet


def quantize_dynamic(fp32: Path, file: Path) -> None:
    """Write `file`, the graph `fp32` with int8 weights in its matrix products and embeddings."""
    settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder, quiet():
        quantizer = ORTQuantizer.from_pretrained(fp32.parent, file_name=fp32.name)
        quantizer.quantize(settings, save_dir=folder)
        shutil.move(Path(folder) / f"{fp32.stem}_quantized.onnx", file)
