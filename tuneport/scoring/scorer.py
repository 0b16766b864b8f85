"""Scores chunks with one engine: while it runs one chunk, the next one is read and tokenized."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneport.errors import DeviceLost, EngineError, InputError
from tuneport.folders import sha256
from tuneport.runtime.batch import EncodedInput, RowOutputs, group_by_input
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.runner import run_isolated
from tuneport.runtime.scheduler import pack_batches
from tuneport.scoring.journal import Part
from tuneport.scoring.plan import Plan
from tuneport.scoring.rows import Chunk, ChunkRows, Row
from tuneport.scoring.sources import open_source
from tuneport.scoring.writers import json_line, write_part

Results = list[RowOutputs | Exception]


@dataclass
class _Work:
    """A chunk on its way through the engine."""

    chunk: Chunk
    rows: ChunkRows
    inputs: list[tuple[Row, Any, list[EncodedInput]]]
    """Rows with their parsed inputs and encoded windows."""
    rejected: dict[int, str]
    """Number of a row → why it cannot be scored."""
    batches: list[list[int]] = field(default_factory=list)
    """Positions among the windows of all inputs."""
    running: list[Future[tuple[Results, float]]] = field(default_factory=list)


class ChunkScorer:
    """Scores chunks of a file with one variant of an artifact."""

    def __init__(self, plan: Plan) -> None:
        """Open the file and the variant; raises as `Predictor` does."""
        config = plan.config
        self._plan = plan
        self._source = open_source(config.input)
        self._predictor = Predictor(
            config.artifact, plan.variant, threads=plan.threads, max_batch_tokens=config.max_batch_tokens
        )
        self._parameters = self._predictor.parse_parameters(config.parameter_values)

    def score(self, chunks: Iterable[Chunk]) -> Iterator[Part]:
        """Score chunks and write their parts, in order; yields each when it has reached the disk."""
        running: list[_Work] = []
        with ThreadPoolExecutor(self._predictor.runner.streams) as pool:
            try:
                for chunk in chunks:
                    running.append(self._start(chunk, pool))
                    if len(running) > 1:  # so that the engine always has the next chunk
                        yield self._finish(running.pop(0))
                for work in running:
                    yield self._finish(work)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, chunk: Chunk, pool: ThreadPoolExecutor) -> _Work:
        """Read and encode a chunk and hand its batches to the engine, the longest first, so that streams end together.

        They are the batches of similar length that serving makes of a full queue.
        """
        names = self._plan.columns.of(self._source.columns) if self._source.columns is not None else None
        rows = self._source.read(chunk, names)
        rejected: dict[int, str] = {}
        work = _Work(chunk, rows, self._encode(rows, rejected), rejected)
        windows = [window for _, _, encoded in work.inputs for window in encoded]
        runner = self._predictor.runner
        work.batches = pack_batches([len(window) for window in windows], runner.limits)[::-1]
        for batch in work.batches:
            work.running.append(pool.submit(run_isolated, runner.run_batch, [windows[i] for i in batch]))
        return work

    def _encode(self, rows: ChunkRows, rejected: dict[int, str]) -> list[tuple[Row, Any, list[EncodedInput]]]:
        """Parse and encode rows; those that cannot be go to `rejected`."""
        task = self._predictor.task
        parsed = []
        for row in rows.rows:
            problem = row.problem or _collision(row, self._plan)
            try:
                if problem is None:
                    parsed.append((row, task.parse_input(self._plan.columns.input_of(row.fields, task))))
            except InputError as error:
                problem = f"{error.problem}; {error.remedy}"
            if problem is not None:
                rejected[row.number] = problem
        return [(row, value, windows) for row, value, windows in self._encode_together(parsed, rejected) if windows]

    def _encode_together(
        self, parsed: Sequence[tuple[Row, Any]], rejected: dict[int, str]
    ) -> Iterator[tuple[Row, Any, list[EncodedInput]]]:
        """Encode inputs in one call; if that fails, one by one."""
        task = self._predictor.task
        try:
            encoded = task.encode_request([value for _, value in parsed], self._parameters) if parsed else []
        except Exception as error:  # of any tokenizer
            if len(parsed) == 1:
                rejected[parsed[0][0].number] = _reason(error)
                return
            for each in parsed:
                yield from self._encode_together([each], rejected)
            return
        yield from ((row, value, windows) for (row, value), windows in zip(parsed, encoded, strict=True))

    def _finish(self, work: _Work) -> Part:
        """Wait for a chunk's outputs, decode them and write the part."""
        results: Results = [{}] * sum(len(windows) for _, _, windows in work.inputs)
        for batch, future in zip(work.batches, work.running, strict=True):
            for position, result in zip(batch, future.result()[0], strict=True):
                results[position] = result
        scored = []
        failure: Exception | None = None
        grouped = group_by_input(results, [windows for _, _, windows in work.inputs])
        for (row, value, windows), outputs in zip(work.inputs, grouped, strict=True):
            error = next((each for each in outputs if isinstance(each, Exception)), None)
            if isinstance(error, DeviceLost):
                raise EngineError(error.problem, "the same command continues, once the device works again") from error
            if error is None:
                scored.append((row, self._predictor.task.decode(value, windows, outputs, self._parameters)))
            else:
                failure = error
                work.rejected[row.number] = _reason(error)
        if failure and not scored:  # not the rows' fault
            problem = f"the engine failed on every row from row {work.chunk.first_row} on ({_reason(failure)})"
            raise EngineError(problem, "the same command continues, once the engine works again") from failure
        return self._write(work, scored)

    def _write(self, work: _Work, scored: list[tuple[Row, Any]]) -> Part:
        folder, number = self._plan.folder, work.chunk.number
        names = Part(number, len(scored), len(work.rejected), "", "")
        output, rejects = names.output(folder), names.rejects(folder)
        with _durable(output) as file:
            write_part(file, work.rows, scored, self._plan.layout)
        with _durable(rejects) as file:
            file.write_text("".join(_rejected_lines(work)), encoding="utf-8")
        return Part(number, len(scored), len(work.rejected), sha256(output), sha256(rejects))


class _durable:
    """Yield a temporary path that is written to the disk and renamed to `path` when the block ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        return self._partial

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            with self._partial.open("rb+") as file:
                os.fsync(file.fileno())
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


def _rejected_lines(work: _Work) -> Iterator[str]:
    for row in work.rows.rows:
        if row.number in work.rejected:
            content = row.raw if row.problem else work.rows.whole(row)
            yield json_line({"row": row.number, "reason": work.rejected[row.number], "input": content})


def _collision(row: Row, plan: Plan) -> str | None:
    """Return the problem of a row that already has the column of the prediction."""
    names = plan.layout.columns if plan.layout.columns is not None else row.fields
    name = plan.layout.prediction
    return f"the row has a column {name!r} already; give --prediction-column" if name in names else None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
