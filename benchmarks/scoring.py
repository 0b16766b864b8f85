"""Batch scoring against its engine alone: `tuneport score`, from its start to the written file, in texts/s.

python -m tuneport.stages.benchmarks.scoring ARTIFACT INPUT [--rounds 3] [--workers 1 2] [--variant V]

The engine alone runs the same rows, read and tokenized before, in the batches of similar length that scoring makes of
the whole file.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.scheduler import pack_batches
from tuneport.scoring.config import ScoreConfig
from tuneport.scoring.inputs import input_columns
from tuneport.scoring.pipeline import score
from tuneport.scoring.sources import open_source


def read_rows(predictor: Predictor, path: Path) -> tuple[int, list[EncodedInput]]:
    """Return the number of inputs in a file, and their encoded rows."""
    source, columns, task = open_source(path), input_columns(predictor.manifest, {}), predictor.task
    fields = [row.fields for chunk in source.index(2048) for row in source.read(chunk).rows]
    parsed = [task.parse_input(columns.input_of(each, task)) for each in fields]
    return len(parsed), [row for rows in task.encode(parsed) for row in rows]


def engine_seconds(predictor: Predictor, rows: Sequence[EncodedInput]) -> float:
    """Time one pass over rows on all streams, the longest batches first."""
    runner = predictor.runner
    batches = [[rows[i] for i in batch] for batch in pack_batches([len(row) for row in rows], runner.limits)]
    with ThreadPoolExecutor(runner.streams) as pool:
        list(pool.map(runner.run_batch, batches[:1] * runner.streams))  # each stream needs its thread
        started = time.perf_counter()
        list(pool.map(runner.run_batch, batches[::-1]))
        return time.perf_counter() - started


def compare(
    artifact: Path, path: Path, *, variant: str | None, rounds: int, workers: Sequence[int]
) -> dict[str, float]:
    """Return the median texts/s of the engine and of scoring with each number of workers, timed in turns."""
    predictor = Predictor(artifact, variant)
    count, rows = read_rows(predictor, path)
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        seconds.setdefault("engine", []).append(engine_seconds(predictor, rows))
        for number in workers:
            config = ScoreConfig(artifact=artifact, input=path, variant=variant, workers=number)
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                score(config, Path(folder) / f"out{path.suffix}")
                seconds.setdefault(f"{number} worker(s)", []).append(time.perf_counter() - started)
    return {name: count / statistics.median(values) for name, values in seconds.items()}


def describe(speeds: Mapping[str, float]) -> str:
    """Return a table: texts/s, and their share of the engine's."""
    lines = [f"{name:12} {speed:9.1f} texts/s  {speed / speeds['engine']:5.2f}" for name, speed in speeds.items()]
    return "\n".join(lines)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description="Time batch scoring against its engine alone.")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    try:
        speeds = compare(
            arguments.artifact,
            arguments.input,
            variant=arguments.variant,
            rounds=arguments.rounds,
            workers=arguments.workers,
        )
    except TuneportError as error:
        sys.exit(f"error: {error}")
    print(describe(speeds))  # noqa: T201


if __name__ == "__main__":
    main()
