"""Measure the service at full load and at twice the load, and what a refusal costs.

python -m tuneport.stages.benchmarks.overload ARTIFACT --out DIR [--variant V] [--connections 32] [--rounds 8]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command import one_line_errors
from .main import bench_overload


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, run the benchmark, and print its table."""
    parser = argparse.ArgumentParser(
        prog="python -m tuneport.stages.benchmarks.overload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variant")
    parser.add_argument("--connections", type=int, default=32, help="connections that are full load")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each load in each round")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it holds a report")
    options = parser.parse_args(arguments)
    with one_line_errors():
        report = bench_overload(
            options.artifact,
            options.out,
            variant=options.variant,
            connections=options.connections,
            rounds=options.rounds,
            seconds=options.seconds,
            overwrite=options.overwrite,
            progress=lambda line: sys.stderr.write(line + "\n"),
        )
    sys.stdout.write(report.markdown())


if __name__ == "__main__":
    main()
