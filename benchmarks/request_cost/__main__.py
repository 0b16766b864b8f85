"""Run the benchmark: `python -m tuneport.stages.benchmarks.request_cost --out reports/request-cost`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command import print_progress, serving_command
from ..report import TABLE
from .config import RequestCostConfig
from .run import bench_request_cost


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, run the benchmark, and print its table."""
    parser = argparse.ArgumentParser(
        prog="python -m tuneport.stages.benchmarks.request_cost",
        description="Compare tuneport's request path with a bare Starlette server and with BentoML's, on a tiny model.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the report; a report in it is replaced")
    parser.add_argument("--artifact", type=Path, help="a text classifier to serve instead of the tiny model")
    parser.add_argument("--servers", default="", help="servers beside the bare one, by name, separated by ';'")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load in each round")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--texts", type=int, default=64, help="texts of a large request")
    options = vars(parser.parse_args(arguments))
    names = tuple(name.strip() for name in options.pop("servers").split(";") if name.strip())
    with serving_command():
        config = RequestCostConfig.model_validate({**options, "servers": names})
        bench_request_cost(config, progress=print_progress)
    sys.stdout.write((config.out / TABLE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
