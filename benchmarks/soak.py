"""The soak test: the service under load for a long time, with its memory and response statuses.

python -m tuneport.stages.benchmarks.soak ARTIFACT [--seconds 60 | --requests N] [--connections 8]
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.schema.base import Frozen
from tuneport.schema.loading import load_golden

from .endpoint.processes import plan_load, resource_usage, run_load, start_server
from .endpoint.targets import http_target

INTERVAL_S = 10.0
"""Time between two readings of the memory."""
WARM_UP_S = 5.0
"""Before the first reading: caches, threads and buffers grow at the start, which is not a leak."""


class SoakResult(Frozen):
    """What was observed."""

    requests: int
    statuses: dict[int, int]
    """Status → number of requests, as in `LoadResult`."""
    seconds: float
    worker_mib: tuple[float, ...]
    """Resident memory of the worker after the warm-up and after each interval."""
    growth: float
    """Last reading relative to the first, minus 1."""


def soak(
    artifact: Path,
    *,
    seconds: float = 60.0,
    requests: int | None = None,
    connections: int = 8,
    progress: Callable[[str], object] = lambda _: None,
) -> SoakResult:
    """Send golden inputs in turn, for `seconds` or until `requests` were sent, and watch the worker's memory.

    Golden inputs include one word, Unicode and texts beyond the maximum length, so batches take many shapes. Raises
    TuneportError if the server does not start.
    """
    target = http_target(artifact, None)
    inputs = [case.input for case in load_golden(artifact)]
    statuses: Counter[int] = Counter()
    with start_server(target) as server:
        plan = plan_load(
            target, server.port, inputs, connections=connections, seconds=min(INTERVAL_S, seconds)
        ).model_copy(update={"warm_up_s": 0.0})
        run_load(plan.model_copy(update={"seconds": min(WARM_UP_S, seconds)}))
        memory_mib = [resource_usage(server.pid).worker_mib]
        started = time.perf_counter()
        while not _is_done(statuses.total(), time.perf_counter() - started, requests, seconds):
            statuses.update(run_load(plan).statuses)
            memory_mib.append(resource_usage(server.pid).worker_mib)
            progress(f"{statuses.total()} requests, {memory_mib[-1]:.1f} MiB")
        elapsed_s = time.perf_counter() - started
    return SoakResult(
        requests=statuses.total(),
        statuses=dict(statuses),
        seconds=round(elapsed_s, 1),
        worker_mib=tuple(round(each, 1) for each in memory_mib),
        growth=round(memory_mib[-1] / memory_mib[0] - 1, 4),
    )


def _is_done(num_requests: int, elapsed_s: float, max_requests: int | None, max_seconds: float) -> bool:
    """Tell whether the number of requests is reached or, if none is set, the time is over."""
    return elapsed_s >= max_seconds if max_requests is None else num_requests >= max_requests


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, run the test, and print the result as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tuneport.stages.benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, help="end after this number of requests instead of --seconds")
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args(arguments)
    try:
        result = soak(
            options.artifact,
            seconds=options.seconds,
            requests=options.requests,
            connections=options.connections,
            progress=lambda line: sys.stderr.write(line + "\n"),
        )
    except TuneportError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    sys.stdout.write(result.model_dump_json(indent=2) + "\n")


if __name__ == "__main__":
    main()
