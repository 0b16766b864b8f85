"""How throughput scales when the cores are divided: among the streams of one engine, or among workers of their own."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tuneport.errors import EngineError
from tuneport.host import usable_cores
from tuneport.runtime.batch import EncodedInput
from tuneport.schema.artifact import Execution
from tuneport.stages.export.build import VariantBuilder

from .scaling_report import CoresTiming

SECONDS, TOKENS, ROWS = 3.0, 32, 4
"""How long each number of streams or workers is timed, and the shape of the batches that each runs."""


def divisions(cores: int) -> list[int]:
    """Return the numbers of streams and workers that are timed: powers of two, and one for each core."""
    return sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {cores})


def time_streams(
    builder: VariantBuilder, name: str, execution: Execution, ids: Sequence[int], streams: int
) -> CoresTiming:
    """Run batches of one shape in every stream at the same time."""
    runner = builder.open(execution.model_copy(update={"streams": streams}))
    batch = [EncodedInput(list(ids), [0] * len(ids), False)] * ROWS

    def work(_: int) -> int:
        runner.run_batch(batch)
        ends_at, done = time.perf_counter() + SECONDS, 0
        while time.perf_counter() < ends_at:
            runner.run_batch(batch)
            done += ROWS
        return done

    with ThreadPoolExecutor(streams) as pool:
        texts = sum(pool.map(work, range(streams)))
    return CoresTiming(variant=name, count=streams, texts_per_s=round(texts / SECONDS, 1))


def time_workers(
    builder: VariantBuilder,
    labels: tuple[str, ...],
    name: str,
    execution: Execution,
    ids: Sequence[int],
    workers: int,
) -> CoresTiming:
    """Run batches of one shape in processes with an engine each, which share the cores evenly.

    Raises EngineError if one of them fails.
    """
    job = {
        "folder": str(builder.folder),
        "task": builder.task_name,
        "labels": labels,
        "processing": builder.processing.model_dump(mode="json"),
        "execution": execution.model_copy(update={"streams": 1}).model_dump(mode="json"),
        "threads": max(1, usable_cores() // workers),
        "ids": [int(token) for token in ids],
        "rows": ROWS,
        "seconds": SECONDS,
    }
    command = [sys.executable, "-P", "-m", "tuneport.stages.benchmarks.scaling_worker"]
    with contextlib.ExitStack() as stack:
        processes = [_start(command, stack) for _ in range(workers)]
        for process in processes:
            _say(process, json.dumps(job))
        for process in processes:
            _hear(process)
        for process in processes:
            _say(process, "go")
        texts = sum(int(_hear(process)) for process in processes)
    return CoresTiming(variant=name, count=workers, texts_per_s=round(texts / SECONDS, 1))


def _start(command: list[str], stack: contextlib.ExitStack) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return process


def _say(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):  # it has ended, which reading says
        process.stdin.write(f"{line}\n")
        process.stdin.flush()


def _hear(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise EngineError(f"a worker ended with exit code {process.wait()}", "run the benchmark with more memory")
    return line.strip()
