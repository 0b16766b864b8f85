"""One of several workers of the scaling benchmark: a process with an engine of its own and its share of the cores.

Reads its job from standard input, answers `ready`, waits for a line, and answers how many texts it has run.
"""

import json
import sys
import time
from pathlib import Path

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.loading import build_runner, open_task
from tuneport.schema.artifact import Execution, Processing


def main() -> None:
    """Open a variant, and run batches of one shape."""
    job = json.loads(sys.stdin.readline())
    folder, processing = Path(job["folder"]), Processing.model_validate(job["processing"])
    task = open_task(folder, job["task"], tuple(job["labels"]), processing)
    execution = Execution.model_validate(job["execution"])
    runner = build_runner(folder, job["task"], task, execution, processing, threads=job["threads"])
    batch = [EncodedInput(job["ids"], [0] * len(job["ids"]), False)] * job["rows"]
    for _ in range(2):
        runner.run_batch(batch)
    _say("ready")
    sys.stdin.readline()
    ends_at, texts = time.perf_counter() + job["seconds"], 0
    while time.perf_counter() < ends_at:
        runner.run_batch(batch)
        texts += len(batch)
    _say(str(texts))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
