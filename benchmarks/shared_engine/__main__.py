"""Run the benchmark: `python -m tuneport.stages.benchmarks.shared_engine --out reports/shared-engine`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command import print_progress, serving_command
from ..report import TABLE
from .config import SharedEngineConfig
from .run import bench_shared_engine


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, run the benchmark, and print its table."""
    parser = argparse.ArgumentParser(
        prog="python -m tuneport.stages.benchmarks.shared_engine",
        description="Measure how requests/s grow with the workers that share one engine process, on a tiny model.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the report; a report in it is replaced")
    parser.add_argument("--artifact", type=Path, help="a text classifier to serve instead of the tiny model")
    parser.add_argument("--workers", type=int, default=2, help="the largest number of workers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in each round")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--batch-ms", type=float, default=5.0, help="time of a batch of the paced engine")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="padded tokens of a batch")
    with serving_command():
        config = SharedEngineConfig.model_validate(vars(parser.parse_args(arguments)))
        bench_shared_engine(config, progress=print_progress)
    sys.stdout.write((config.out / TABLE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
