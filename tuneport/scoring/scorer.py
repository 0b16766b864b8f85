"""Scores chunks with one engine: while it runs one chunk, the next one is read and tokenized."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from tuneport.errors import DeviceLost, EngineError
from tuneport.runtime.batch import EncodedInput, RowOutputs, group_by_input
from tuneport.runtime.predictor import parse_parameters
from tuneport.runtime.runner import ModelRunner, run_isolated
from tuneport.runtime.scheduler import pack_batches
from tuneport.scoring.journal import Part
from tuneport.scoring.opening import open_engine
from tuneport.scoring.part_files import write_part_files
from tuneport.scoring.plan import Plan
from tuneport.scoring.preparation import ChunkEncoder, PreparedChunk, reason_of
from tuneport.scoring.rows import Chunk
from tuneport.scoring.sources import open_source
from tuneport.scoring.writers import Scored


@dataclass
class _Work:
    """A chunk on its way through the engine."""

    prepared: PreparedChunk
    windows: list[EncodedInput]
    """Of all inputs."""
    batches: deque[list[int]]
    """Positions among the windows; those of batches that no stream has taken yet."""
    results: list[RowOutputs | Exception]
    """Of each window."""
    streams: list["Future[None]"] = field(default_factory=list)
    """Done when each stream has found no more batches."""

    def start(self, runner: ModelRunner, pool: ThreadPoolExecutor) -> None:
        """Hand the batches to the engine."""
        self.streams.extend(pool.submit(self.run_batches, runner) for _ in range(runner.streams))

    def run_batches(self, runner: ModelRunner) -> None:
        """Run batches until none is left; called in the thread of each stream.

        A future for each batch would wake the thread that waits for it at every one, and the engine for the lock of
        Python.
        """
        while self.batches:
            try:
                batch = self.batches.popleft()
            except IndexError:  # another stream took the last one
                return
            results, _ = run_isolated(runner.run_batch, [self.windows[i] for i in batch])
            for position, result in zip(batch, results, strict=True):
                self.results[position] = result


class ChunkScorer:
    """Scores chunks of a file with one variant of an artifact."""

    def __init__(self, plan: Plan) -> None:
        """Open the file, and begin to open the variant; raises as `Predictor` does."""
        self._plan = plan
        source = open_source(plan.config.input)
        self._task, self._predictor = open_engine(plan)
        self._parameters = parse_parameters(self._task, plan.config.parameter_values)
        self._encoder = ChunkEncoder(plan, source, self._task, self._parameters)

    def score(self, chunks: Iterable[Chunk]) -> Iterator[Part]:
        """Score chunks and write their parts, in order; yields each when it has reached the disk.

        The first one is read and encoded while the engine is opened.
        """
        prepared = map(self._encoder.prepare, chunks)
        first = iter(list(itertools.islice(prepared, 1)))  # which lets go of the chunk when it is spent
        runner = self._predictor.result().runner
        running: deque[_Work] = deque()
        with ThreadPoolExecutor(runner.streams) as pool:
            try:
                for each in itertools.chain(first, prepared):
                    running.append(_pack(each, runner))  # before it runs, so that an interruption finds it
                    running[-1].start(runner, pool)
                    if len(running) > 1:  # so that the engine always has the next chunk
                        yield self._finish(running[0])
                        running.popleft()
                while running:
                    yield self._finish(running[0])
                    running.popleft()
            finally:
                for work in running:  # after an interruption only the batches that run end
                    work.batches.clear()
                pool.shutdown(wait=False, cancel_futures=True)

    def _finish(self, work: _Work) -> Part:
        """Wait for a chunk's outputs, decode them and write the part."""
        for stream in work.streams:
            stream.result()
        return write_part_files(self._plan, work.prepared, self._decode(work))

    def _decode(self, work: _Work) -> Scored:
        """Return the rows with their predictions; those on which the engine failed are rejected."""
        inputs, rejected = work.prepared.inputs, work.prepared.rejected
        complete, failure = [], None
        grouped = group_by_input(work.results, [windows for _, _, windows in inputs])
        for (row, value, windows), outputs in zip(inputs, grouped, strict=True):
            error = next((each for each in outputs if isinstance(each, Exception)), None)
            if isinstance(error, DeviceLost):
                raise EngineError(error.problem, "the same command continues, once the device works again") from error
            if error is None:
                complete.append((row, value, windows, outputs))
            else:
                failure = error
                rejected[row.number] = reason_of(error)
        if not complete:
            if failure:  # not the rows' fault
                first = work.prepared.chunk.first_row
                problem = f"the engine failed on every row from row {first} on ({reason_of(failure)})"
                raise EngineError(problem, "the same command continues, once the engine works again") from failure
            return []
        rows, values, windows_of, outputs_of = zip(*complete, strict=True)
        predictions = self._task.decode_request(values, windows_of, outputs_of, self._parameters)
        return list(zip(rows, predictions, strict=True))


def _pack(prepared: PreparedChunk, runner: ModelRunner) -> _Work:
    """Return the batches of a chunk, the longest first, so that streams end together.

    They are the batches of similar length that serving makes of a full queue.
    """
    windows = [window for _, _, encoded in prepared.inputs for window in encoded]
    batches = pack_batches([len(window) for window in windows], runner.limits)[::-1]
    return _Work(prepared, windows, deque(batches), [{}] * len(windows))
