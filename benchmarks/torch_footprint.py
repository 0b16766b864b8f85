"""Memory and cold start of the checkpoint in torch, measured as those of a variant are: in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tuneport.host import usable_cores
from tuneport.runtime.batch import EncodedInput
from tuneport.schema.artifact import Footprint
from tuneport.schema.torch_setup import TorchPrecision

TIMEOUT_S = 300
DTYPES: dict[TorchPrecision, str] = {"fp32": "float32", "bf16": "bfloat16"}
SCRIPT = """
import json, sys, time
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

spec = json.loads(sys.stdin.read())
before, started = resident(), time.perf_counter()
import torch, transformers
torch.set_num_threads(spec["threads"])
dtype = getattr(torch, spec["dtype"])
model = getattr(transformers, spec["model"]).from_pretrained(spec["checkpoint"], dtype=dtype).eval()
with torch.inference_mode():
    model(input_ids=torch.tensor([spec["rows"][0]]))
    first = time.perf_counter() - started
    for row in spec["rows"]:
        model(input_ids=torch.tensor([row]))
print(json.dumps({"memory_mib": round(resident() - before, 1), "cold_start_ms": round(first * 1000, 1)}))
"""


def torch_footprint(
    checkpoint: Path, auto_model: str, precision: TorchPrecision, rows: Sequence[EncodedInput]
) -> Footprint | None:
    """Load a checkpoint in a new process, run rows one at a time, and measure; None if that fails.

    A tokenizer's share is left out, as small as it is. Checkpoints with code of their own fail.
    """
    if precision not in DTYPES or not rows:
        return None
    spec = {
        "checkpoint": str(checkpoint.resolve()),
        "model": auto_model,
        "dtype": DTYPES[precision],
        "threads": usable_cores(),
        "rows": [list(map(int, row.ids)) for row in rows],
    }
    command = [sys.executable, "-P", "-c", SCRIPT]
    try:
        done = subprocess.run(
            command, input=json.dumps(spec), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return Footprint.model_validate_json(done.stdout) if done.returncode == 0 else None
