"""A tool that generates tokens in a process of its own, as a runner of the engine benchmark.

The process writes `{"size": bytes}`, that of its model, once this is open. Then it reads a JSON object a line:

- `{"ids": [[…]], "max": n, "min": n}`, token ids of prompts, and how many tokens to generate, greedily. It writes a
  list of the generated ids of each prompt, without the end token.
- `{"scored": […], "from": k}`, ids of a prompt with a reference answer, and the index of the answer's first token. It
  writes `{"losses": […], "hits": […]}`: -log p of each token of the answer, and whether it was the likeliest (1 or 0).
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from tuneport.errors import EngineError
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tasks.generation import Prompt


class GeneratorRunner(ModelRunner):
    """Rows of a generative task in another process; greedy, with the tokens that the rows ask for."""

    supports_streams = False
    single_row_batches = False
    streams = 1

    def __init__(self, process: "subprocess.Popen[str]", task: RuntimeTask) -> None:
        """Talk to a process that is ready."""
        self.task = task
        self.limits = BatchLimits()
        self.on_halved = lambda: None
        self._process = process

    def run_batch(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Generate for rows in one batch, or in one for each number of tokens that rows may have."""
        outputs: list[RowOutputs] = [{}] * len(rows)
        groups: dict[tuple[int, int], list[int]] = {}
        for i, row in enumerate(rows):
            assert isinstance(row, Prompt)
            groups.setdefault((row.sampling.max_new_tokens, row.sampling.min_new_tokens), []).append(i)
        for (most, least), indices in groups.items():
            ids = self._ask({"ids": [list(map(int, rows[i].ids)) for i in indices], "max": most, "min": least})
            for i, tokens in zip(indices, ids, strict=True):
                outputs[i] = {"tokens": np.asarray(tokens, np.int64), **self._score(rows[i])}
        return outputs

    def _score(self, row: EncodedInput) -> RowOutputs:
        if not isinstance(row, Prompt) or not row.scored:
            return {}
        found = self._ask({"scored": list(map(int, row.scored)), "from": row.scored_from})
        return {name: np.asarray(found[name], np.float32) for name in ("losses", "hits")}

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # the process has ended, which reading says
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return read_answer(self._process)


@contextmanager
def running_generator(command: list[str], task: RuntimeTask) -> Iterator[tuple[GeneratorRunner, int]]:
    """Start the process of a generator, and end it; yields its runner, and the bytes of its model.

    Raises EngineError with its last words if it does not start.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
        )
        try:
            try:
                size = read_answer(process)["size"]
            except EngineError as error:
                log.seek(0)
                raise EngineError(f"it does not start ({last_line(log.read())})", "run its script by hand") from error
            yield GeneratorRunner(process, task), size
        finally:
            process.kill()
            process.communicate()


def read_answer(process: "subprocess.Popen[str]") -> Any:
    """Read the next line of a process as JSON; an EngineError if it has ended."""
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise EngineError("the generator's process ended", "run its script by hand")
    return json.loads(line)


def last_line(text: str) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
