"""Runs chunks in this process, or in several, each with an engine of its own."""

import itertools
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tuneport.errors import EngineError, TuneportError
from tuneport.gpu import VISIBLE, Gpu
from tuneport.scoring.journal import Part
from tuneport.scoring.plan import Plan
from tuneport.scoring.rows import Chunk
from tuneport.scoring.scorer import ChunkScorer

POLL_S = 0.5
AHEAD = 3
"""Chunks that each worker has or waits for: one that runs, one that is prepared, and one more."""


def run_here(plan: Plan, chunks: Sequence[Chunk]) -> Iterator[Part]:
    """Score chunks in this process."""
    return ChunkScorer(plan).score(chunks)


def run_in_processes(plan: Plan, chunks: Sequence[Chunk], workers: int, gpus: Sequence[Gpu]) -> Iterator[Part]:
    """Score chunks in several processes, on GPUs in turn; yields parts as they are completed.

    Raises what a worker raised, and EngineError if one died.
    """
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    results: Any = context.Queue()
    names: list[str | None] = [gpu.uuid for gpu in gpus if gpu.uuid] or [None]
    processes = [
        context.Process(target=_work, args=(plan, tasks, results, names[i % len(names)]), daemon=True)
        for i in range(workers)
    ]
    # A worker asks for its next chunk before it finishes one, so that it has to hear of the end.
    remaining = itertools.chain(chunks, itertools.repeat(None, workers))
    try:
        for process in processes:
            process.start()
        for chunk in itertools.islice(remaining, AHEAD * workers):
            tasks.put(chunk)
        for _ in chunks:
            yield _receive(results, processes)
            for chunk in itertools.islice(remaining, 1):
                tasks.put(chunk)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        for each in (tasks, results):
            each.cancel_join_thread()
            each.close()


def _receive(results: Any, processes: Sequence[Any]) -> Part:
    while True:
        try:
            result = results.get(timeout=POLL_S)
        except queue.Empty:
            dead = [process for process in processes if process.exitcode]
            if dead and results.empty():
                problem = f"a worker ended with exit code {dead[0].exitcode}"
                remedy = "the same command continues; with fewer --workers each has more memory"
                raise EngineError(problem, remedy) from None
            continue
        if isinstance(result, Exception):
            raise result
        return result


def _work(plan: Plan, tasks: Any, results: Any, gpu: str | None) -> None:
    """Score chunks until this process is killed; the body of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpu:
        os.environ[VISIBLE] = gpu
    try:
        for part in ChunkScorer(plan).score(iter(tasks.get, None)):
            results.put(part)
    except TuneportError as error:
        results.put(error)
    except Exception as error:
        results.put(RuntimeError(f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """End this process when its parent ends, however it does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
