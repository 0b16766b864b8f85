"""Run the benchmark: `python -m tuneport.stages.benchmarks.request_cost --out reports/request-cost`."""

import sys
from collections.abc import Sequence

from ..command import print_progress, read_config, serving_command
from ..report import TABLE
from .config import RequestCostConfig
from .run import bench_request_cost

PROG = "python -m tuneport.stages.benchmarks.request_cost"
DESCRIPTION = "Compare tuneport's request path with a bare Starlette server and with BentoML's, on a tiny model."


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, run the benchmark, and print its table."""
    config = read_config(RequestCostConfig, arguments, prog=PROG, description=DESCRIPTION)
    with serving_command():
        bench_request_cost(config, progress=print_progress)
    sys.stdout.write((config.out / TABLE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
