"""Measure the memory and the cold start of a variant in a new process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tuneport.errors import EngineError
from tuneport.schema.artifact import Execution, Footprint, Processing

TIMEOUT_S = 300
SCRIPT = """
import json, sys, time
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

import numpy, tokenizers
from tuneport.gpu import GpuMeter, visible_gpus
from tuneport.runtime.loading import build_runner, open_task
from tuneport.schema.artifact import Execution, Processing
spec = json.loads(sys.stdin.read())
execution = Execution.model_validate(spec["execution"])
processing = Processing.model_validate(spec["processing"])
folder = Path(spec["folder"])
gpus = () if execution.device == "cpu" else visible_gpus()
meter = GpuMeter(gpus[0] if gpus else None)
with meter.measure("variant"):
    before, started = resident(), time.perf_counter()
    task = open_task(folder, spec["task"], tuple(spec["labels"]), processing)
    runner = build_runner(folder, spec["task"], task, execution, processing)
    rows = [row for rows in task.encode([task.parse_input(each) for each in spec["inputs"]]) for row in rows]
    runner.run(rows[:1])
    first = time.perf_counter() - started
    runner.run(rows)
footprint = {"memory_mib": round(resident() - before, 1), "cold_start_ms": round(first * 1000, 1)}
print(json.dumps(footprint | {"gpu_memory_mib": meter.usage("variant").memory_mib}))
"""
"""A string and not a module of this package, which would import torch."""


def measure_footprint(
    folder: Path, task: str, labels: tuple[str, ...], processing: Processing, execution: Execution, inputs: list[Any]
) -> Footprint:
    """Open a variant of the unfinished artifact in `folder` in a new process and run `inputs`.

    Raises EngineError if the process fails or takes too long.
    """
    spec = {
        "folder": str(folder),
        "task": task,
        "labels": labels,
        "processing": processing.model_dump(mode="json"),
        "execution": execution.model_dump(mode="json"),
        "inputs": inputs,
    }
    # -P: modules in the working directory must not shadow installed ones.
    command = [sys.executable, "-P", "-c", SCRIPT]
    try:
        done = subprocess.run(
            command, input=json.dumps(spec), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"it does not open and run within {TIMEOUT_S} s", "choose other variants") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise EngineError(f"it does not open in a process of its own ({last[0][:200]})", "choose other variants")
    return Footprint.model_validate_json(done.stdout)
