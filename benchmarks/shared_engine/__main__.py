"""Run the benchmark: `python -m tuneport.stages.benchmarks.shared_engine --out reports/shared-engine`."""

import sys
from collections.abc import Sequence

from ..command import print_progress, read_config, serving_command
from ..report import TABLE
from .config import SharedEngineConfig
from .run import bench_shared_engine

PROG = "python -m tuneport.stages.benchmarks.shared_engine"
DESCRIPTION = "Measure how requests/s grow with the workers that share one engine process, on a tiny model."


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, run the benchmark, and print its table."""
    config = read_config(SharedEngineConfig, arguments, prog=PROG, description=DESCRIPTION)
    with serving_command():
        bench_shared_engine(config, progress=print_progress)
    sys.stdout.write((config.out / TABLE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
