"""Run the soak test: `python -m tuneport.stages.benchmarks.soak ARTIFACT [--requests N] [--faults]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command import print_progress, serving_command
from .run import SoakConfig, soak


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, run the test, print the result as JSON, and exit with 1 if it failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tuneport.stages.benchmarks.soak",
        description="Serve an artifact under load; count lost and wrong answers, and watch the memory.",
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, help="end after this number of requests instead of --seconds")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--faults", action="store_true", help="kill workers, roll out, overload")
    parser.add_argument("--upgrade", type=Path, help="another artifact of the same task, to roll out")
    parser.add_argument("--fault-interval-s", type=float, default=10.0, help="pause between two faults")
    parser.add_argument("--max-growth", type=float, default=0.05, help="of the memory, without faults")
    options = vars(parser.parse_args(arguments))
    max_growth = options.pop("max_growth")
    with serving_command():
        result = soak(SoakConfig.model_validate(options), progress=print_progress)
    sys.stdout.write(result.model_dump_json(indent=2) + "\n")
    problems = result.problems
    if result.growth is not None and result.growth > max_growth:
        problems.append(f"the memory grew by {result.growth:.1%}")
    if problems:
        sys.stderr.write(f"error: {', '.join(problems)}; look at the service's log\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
