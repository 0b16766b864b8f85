"""Batch scoring against its engine alone: `tuneport score`, from its start to the written file, in texts/s.

python -m tuneport.stages.benchmarks.scoring ARTIFACT INPUT [--rounds 3] [--workers 1 2] [--variant V]
    [--min-seconds 60]

The rows are repeated until the engine alone needs at least `--min-seconds`. The engine alone runs the same rows, read
and tokenized before, in the batches that scoring makes: each window is packed apart. Of scoring, the fixed seconds
(opening the engine, the first window, joining the parts) are told apart from the steady speed between the first and the
last window.
"""

import argparse
import math
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tuneport.errors import DataError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.scheduler import BatchLimits, pack_batches
from tuneport.scoring.config import ScoreConfig
from tuneport.scoring.inputs import input_columns
from tuneport.scoring.pipeline import WINDOW_ROWS, Progress, score
from tuneport.scoring.sources import open_source
from tuneport.tasks import task_spec

from .command import one_line_errors

READ_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Timing:
    """One run over a number of rows."""

    texts_per_s: float
    """From the start to the written file."""
    steady_texts_per_s: float
    """From the end of the first window to that of the last one."""
    fixed_s: float
    """What the run took longer than its rows at the steady speed."""
    cpu_ms: float | None = None
    """Processor time a text, which other work changes less than the speeds; None for several processes."""


def split_timing(rows: int, seconds: float, parts: Sequence[tuple[float, int]]) -> Timing:
    """Tell the fixed seconds of a run from its speed.

    `parts` has, for each window, the seconds at which it was written and the rows that were written then. Raises
    DataError for fewer than two windows.
    """
    if len(parts) < 2:
        raise DataError(f"{rows} rows are one window", "give more rows, or a larger --min-seconds")
    (first_s, first_rows), (last_s, last_rows) = parts[0], parts[-1]
    steady = (last_rows - first_rows) / (last_s - first_s)
    return Timing(rows / seconds, steady, seconds - rows / steady)


def repeat_rows(path: Path, times: int, out: Path) -> None:
    """Write a file with the rows of `path` several times."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        table = parquet.read_table(path)
        parquet.write_table(pyarrow.concat_tables([table] * times), out)
        return
    start = next(iter(open_source(path).index(1))).start
    with path.open("rb") as source:
        header, rows = source.read(start), source.read()
    with out.open("wb") as file:
        file.write(header)
        for _ in range(times):
            file.write(rows if rows.endswith(b"\n") else rows + b"\n")


def read_rows(predictor: Predictor, path: Path) -> list[list[EncodedInput]]:
    """Return the encoded rows of each input in a file."""
    source, columns, task = open_source(path), input_columns(predictor.manifest, {}), predictor.task
    fields = [row.fields for chunk in source.index(READ_ROWS) for row in source.read(chunk).rows]
    parsed = [task.parse_input(columns.input_of(each, task)) for each in fields]
    return [list(rows) for rows in task.encode_request(parsed, predictor.parse_parameters({}))]


def window_batches(
    inputs: Sequence[Sequence[EncodedInput]], window_rows: int, limits: BatchLimits
) -> list[list[EncodedInput]]:
    """Return the batches of the rows of inputs in the order in which scoring runs them, window by window.

    The fewer rows are packed together, the more padding they need. In a window the longest batches are first.
    """
    batches: list[list[EncodedInput]] = []
    for first in range(0, len(inputs), window_rows):
        rows = [row for each in inputs[first : first + window_rows] for row in each]
        batches += [[rows[i] for i in batch] for batch in pack_batches([len(row) for row in rows], limits)[::-1]]
    return batches


def engine_seconds(predictor: Predictor, inputs: Sequence[Sequence[EncodedInput]]) -> float:
    """Time one pass over the rows of inputs on all streams."""
    runner = predictor.runner
    window_rows = WINDOW_ROWS[task_spec(predictor.manifest.task).family]
    batches = window_batches(inputs, window_rows, runner.limits)
    waiting = deque(batches)

    def run(_: int) -> None:
        while waiting:
            try:
                batch = waiting.popleft()
            except IndexError:
                return
            runner.run_batch(batch)

    with ThreadPoolExecutor(runner.streams) as pool:
        list(pool.map(runner.run_batch, batches[:1] * runner.streams))  # each stream needs its thread
        started = time.perf_counter()
        list(pool.map(run, range(runner.streams)))
        return time.perf_counter() - started


def time_scoring(config: ScoreConfig, rows: int) -> Timing:
    """Time one run of batch scoring."""
    parts: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        started, cpu = time.perf_counter(), time.process_time()

        def record(progress: Progress) -> None:
            parts.append((time.perf_counter() - started, progress.done_rows))

        score(config, Path(folder) / f"out{config.input.suffix}", progress=record)
        timing = split_timing(rows, time.perf_counter() - started, parts)
        cpu_ms = 1000 * (time.process_time() - cpu) / rows
        return replace(timing, cpu_ms=cpu_ms if config.workers == 1 else None)


def compare(
    artifact: Path, path: Path, *, variant: str | None, rounds: int, workers: Sequence[int], min_seconds: float
) -> dict[str, Timing]:
    """Return the medians of the engine and of scoring with each number of workers, timed in turns."""
    predictor = Predictor(artifact, variant)
    inputs = read_rows(predictor, path)
    times = max(1, math.ceil(min_seconds / engine_seconds(predictor, inputs)))
    inputs *= times
    count = len(inputs)
    timings: dict[str, list[Timing]] = {}
    with tempfile.TemporaryDirectory() as folder:
        grown = Path(folder) / f"in{path.suffix}"
        shutil.copyfile(path, grown) if times == 1 else repeat_rows(path, times, grown)
        for _ in range(rounds):
            cpu = time.process_time()
            alone = count / engine_seconds(predictor, inputs)
            cpu_ms = 1000 * (time.process_time() - cpu) / count
            timings.setdefault("engine", []).append(Timing(alone, alone, 0.0, cpu_ms))
            for number in workers:
                config = ScoreConfig(artifact=artifact, input=grown, variant=variant, workers=number)
                timings.setdefault(f"{number} worker(s)", []).append(time_scoring(config, count))
    return {name: _median(values) for name, values in timings.items()}


def _median(timings: Sequence[Timing]) -> Timing:
    cpu = [each.cpu_ms for each in timings if each.cpu_ms is not None]
    return Timing(
        statistics.median(each.texts_per_s for each in timings),
        statistics.median(each.steady_texts_per_s for each in timings),
        statistics.median(each.fixed_s for each in timings),
        statistics.median(cpu) if cpu else None,
    )


def describe(timings: Mapping[str, Timing]) -> str:
    """Return a table: texts/s from start to end and steady, fixed seconds, and milliseconds of processor time a text.

    Beside each but the seconds is the engine's share of it.
    """
    alone, alone_ms = timings["engine"].texts_per_s, timings["engine"].cpu_ms or 0.0
    lines = [
        f"{'':12} {'texts/s':>9} {'share':>6} {'steady':>9} {'share':>6} {'fixed s':>8} {'cpu ms':>8} {'share':>6}"
    ]
    for name, each in timings.items():
        whole, steady = each.texts_per_s, each.steady_texts_per_s
        line = f"{name:12} {whole:9.1f} {whole / alone:6.2f} {steady:9.1f} {steady / alone:6.2f} {each.fixed_s:8.1f}"
        cpu = f" {each.cpu_ms:8.2f} {alone_ms / each.cpu_ms:6.2f}" if each.cpu_ms else ""
        lines.append(line + cpu)
    return "\n".join(lines)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description="Time batch scoring against its engine alone.")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--min-seconds", type=float, default=60.0, help="seconds that the engine alone runs, at least")
    arguments = parser.parse_args()
    with one_line_errors():
        timings = compare(
            arguments.artifact,
            arguments.input,
            variant=arguments.variant,
            rounds=arguments.rounds,
            workers=arguments.workers,
            min_seconds=arguments.min_seconds,
        )
    print(describe(timings))  # noqa: T201


if __name__ == "__main__":
    main()
