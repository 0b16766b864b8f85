"""What a variant costs a process of its own: memory, and the time until its first answer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from export.files import EngineError
from export.manifest import Footprint, Processing, Variant

TIMEOUT_S = 300
SCRIPT = """
import json, sys, time
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

import numpy, tokenizers
from export.manifest import Processing, Variant
from serve.model import assemble, open_task
ask = json.loads(sys.stdin.read())
variant = Variant.model_validate(ask["variant"])
processing = Processing.model_validate(ask["processing"])
before, started = resident(), time.perf_counter()
task = open_task(Path(ask["folder"]), ask["task"], tuple(ask["labels"]), processing)
model = assemble(Path(ask["folder"]), task, variant, processing)
given = [task.read(each) for each in ask["inputs"]]
rows = [row for rows in task.encode(given) for row in rows]
model.run(rows[:1])
first = time.perf_counter() - started
model.run(rows)
print(json.dumps({"memory_mib": round(resident() - before, 1), "cold_start_ms": round(first * 1000, 1)}))
"""
"""Not a module of its own: it must not import what exporting does."""


def measure_footprint(
    folder: Path, task: str, labels: tuple[str, ...], processing: Processing, variant: Variant, inputs: list[Any]
) -> Footprint:
    """Open a variant of the unfinished artifact in `folder` in a new process and answer `inputs`."""
    ask = {
        "folder": str(folder),
        "task": task,
        "labels": labels,
        "processing": processing.model_dump(mode="json"),
        "variant": variant.model_dump(mode="json"),
        "inputs": inputs,
    }
    command = [sys.executable, "-c", SCRIPT]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        command, input=json.dumps(ask), capture_output=True, text=True, timeout=TIMEOUT_S, cwd=root, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise EngineError(f"it does not open in a process of its own ({last[0][:200]})", "choose other variants")
    return Footprint.model_validate_json(done.stdout)
