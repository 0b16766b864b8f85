"""The soak: the service under load for as long as asked, and its memory meanwhile, `python -m benchmarks.soak`."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.endpoint_contenders import HOST, ours
from benchmarks.endpoint_processes import run_load, usage_of
from benchmarks.load import Plan
from export.files import TuneportError
from export.machine import Frozen
from export.manifest import load_golden
from serve.process import free_port, running

STRETCH_S = 10.0
"""Between two looks at the memory."""
WARM_UP_S = 5.0
"""Caches, threads and buffers grow in the beginning; that is no leak."""


class Soak(Frozen):
    """What a soak found."""

    requests: int
    statuses: dict[int, int]
    seconds: float
    worker_mib: tuple[float, ...]
    """Resident memory of the worker after the warm-up and after each stretch."""
    growth: float
    """The last over the first, less one."""


def soak(
    artifact: Path,
    *,
    seconds: float = 60.0,
    requests: int | None = None,
    connections: int = 8,
    progress: Callable[[str], object] = lambda _: None,
) -> Soak:
    """Ask golden inputs again and again, for `seconds` or until `requests` were answered; returns what was found.

    Golden inputs are short, long, awkward and of one word, so batches take all shapes.
    """
    contender = ours(artifact, None)
    port = free_port()
    plan = Plan(
        host=HOST,
        port=port,
        path=contender.path,
        bodies=tuple(contender.body(case.input) for case in load_golden(artifact)),
        connections=connections,
        seconds=min(STRETCH_S, seconds),
    )
    statuses: Counter[int] = Counter()
    with running(contender.command(port), f"http://{HOST}:{port}", contender.environment) as pid:
        run_load(plan.model_copy(update={"seconds": min(WARM_UP_S, seconds)}))
        memory = [usage_of(pid).worker_mib]
        started = time.perf_counter()
        while _goes_on(statuses.total(), time.perf_counter() - started, requests, seconds):
            statuses.update(run_load(plan).statuses)
            memory.append(usage_of(pid).worker_mib)
            progress(f"{statuses.total()} requests, {memory[-1]:.1f} MiB")
        took = time.perf_counter() - started
    return Soak(
        requests=statuses.total(),
        statuses=dict(statuses),
        seconds=round(took, 1),
        worker_mib=tuple(round(each, 1) for each in memory),
        growth=round(memory[-1] / memory[0] - 1, 4),
    )


def _goes_on(done: int, took_s: float, requests: int | None, seconds: float) -> bool:
    return took_s < seconds if requests is None else done < requests


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, help="instead of --seconds: 1000000 for the real thing")
    parser.add_argument("--connections", type=int, default=8)
    given = parser.parse_args(arguments)
    try:
        found = soak(
            given.artifact,
            seconds=given.seconds,
            requests=given.requests,
            connections=given.connections,
            progress=lambda line: sys.stderr.write(line + "\n"),
        )
    except TuneportError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    sys.stdout.write(found.model_dump_json(indent=2) + "\n")


if __name__ == "__main__":
    main()
