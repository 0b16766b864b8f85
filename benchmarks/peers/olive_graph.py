"""What Olive's command line makes of a checkpoint for ONNX Runtime on a CPU.

    ENVIRONMENT/bin/python olive_graph.py CHECKPOINT TASK OUT fp32|int8

TASK is a task of transformers. fp32 is `olive optimize`, int8 then `olive quantize` with ONNX Runtime's dynamic
quantization: `olive optimize --precision int8` calibrates with a data set of the hub. Its default exporter is one for
language models. Writes OUT/model.onnx.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CPU = ("--provider", "CPUExecutionProvider", "--device", "cpu")


def olive(folder: str, command: str, model: str, *arguments: str) -> Path:
    """Run a command of Olive's; returns the folder of its graph."""
    program = str(Path(sys.executable).with_name("olive"))
    out = Path(folder, command)
    rest = [*arguments, "--output_path", str(out), "--disable_telemetry"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([program, command, "--model_name_or_path", model, *rest], cwd=folder, env=environment, check=True)
    return min(out.rglob("*.onnx")).parent


def main(checkpoint: str, task: str, out: Path, precision: str) -> None:
    """Keep the graph of the last command, with its weights."""
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        exporter = ("--exporter", "torchscript_exporter", "--precision", "fp32")
        made = olive(scratch, "optimize", checkpoint, "--task", task, *CPU, *exporter)
        if precision == "int8":
            graph = str(min(made.glob("*.onnx")))
            made = olive(scratch, "quantize", graph, "--precision", precision, "--implementation", "ort")
        for file in made.glob("*.onnx*"):
            shutil.move(file, out / file.name)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
