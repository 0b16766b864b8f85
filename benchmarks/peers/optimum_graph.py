"""What Optimum's documentation shows for a faster model: an export, and its own dynamic quantization to int8.

    python optimum_graph.py CHECKPOINT TASK OUT int8

TASK is a task of Optimum's exporter. Writes OUT/model.onnx.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig


def main(checkpoint: str, task: str, out: Path) -> None:
    """Export and quantize, with the settings for processors with VNNI, as the documentation has them."""
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        exported, quantized = Path(scratch, "exported"), Path(scratch, "quantized")
        main_export(checkpoint, exported, task=task, do_validation=False)
        settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
        ORTQuantizer.from_pretrained(exported).quantize(save_dir=quantized, quantization_config=settings)
        (graph,) = quantized.glob("*.onnx")
        shutil.move(graph, out / "model.onnx")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
