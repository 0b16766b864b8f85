"""A task and an engine, joined: inputs to raw outputs. The gate, the benchmarks and serving all use it."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.files import GateError
from export.manifest import TOKENIZER, GoldenCase, Manifest, Processing, Variant
from serve.batcher import Result, plan
from serve.engines import Engine, open_engine
from serve.tasks import Task, task_class
from serve.tokenizer import Row, TextTokenizer, pad, span


class Model:
    """Runs rows through an engine."""

    def __init__(self, task: Task, engine: Engine, processing: Processing) -> None:
        """Join the two."""
        self.task = task
        self.engine = engine
        self._processing = processing

    splits = True
    """Whether the processors may be shared out among several streams."""

    @property
    def streams(self) -> int:
        """How many batches may run at a time."""
        return self.engine.streams

    def run_batch(self, rows: Sequence[Row]) -> list[Result]:
        """Run rows in one batch, padded to the longest; one result a row, without its padding."""
        outputs = self.engine.run(pad(rows, self._processing))
        results = [{name: values[i] for name, values in outputs.items()} for i in range(len(rows))]
        if not self.task.per_token:
            return results
        longest = max(map(len, rows))
        places = [span(row, longest, self._processing) for row in rows]
        return [{name: values[at] for name, values in each.items()} for each, at in zip(results, places, strict=True)]

    def run(self, rows: Sequence[Row], max_batch_tokens: int = 1024) -> list[Result]:
        """Run any number of rows in the micro-batches that serving would make; results in order."""
        results: list[Result] = [{}] * len(rows)
        for batch in plan([len(row) for row in rows], max_batch_tokens):
            for i, result in zip(batch, self.run_batch([rows[i] for i in batch]), strict=True):
                results[i] = result
        return results


def open_model(folder: Path, manifest: Manifest, variant: Variant, *, threads: int | None = None) -> Model:
    """Open a variant of an artifact with the task that reads its inputs and outputs."""
    task = open_task(folder, manifest.task, manifest.labels, manifest.processing)
    return assemble(folder, task, variant, manifest.processing, threads=threads)


def assemble(
    folder: Path, task: Task, variant: Variant, processing: Processing, *, threads: int | None = None
) -> Model:
    """Open a variant's engine and join it with a task; the export does so before there is a manifest."""
    return Model(task, open_engine(folder, variant, threads=threads), processing)


def open_task(folder: Path, name: str, labels: tuple[str, ...], processing: Processing) -> Task:
    """Open the tokenizer in `folder` and the task over it."""
    return task_class(name)(labels, processing, TextTokenizer(folder / TOKENIZER, processing))


def group(results: Sequence[Result], windows: Sequence[Sequence[Row]]) -> list[list[Result]]:
    """Give each input the results of its windows back."""
    source = iter(results)
    return [list(itertools.islice(source, len(rows))) for rows in windows]


def golden_outputs(model: Model, cases: Sequence[GoldenCase]) -> list[list[Result]]:
    """Run golden cases in the batches that they name; the results of each one's windows, in order."""
    outputs: list[list[Result]] = []
    for _, batch in itertools.groupby(cases, key=lambda case: case.batch):
        windows = model.task.encode([model.task.read(case.input) for case in batch])
        outputs += group(model.run_batch([row for rows in windows for row in rows]), windows)
    return outputs


def difference(ours: Sequence[Result], torchs: Sequence[dict[str, Any]]) -> float:
    """Return the largest |Δ| of an input's outputs.

    Infinite where windows or shapes are not torch's, or where a value is not finite.
    """
    if len(ours) != len(torchs) or any(a.keys() != b.keys() for a, b in zip(ours, torchs, strict=True)):
        return float("inf")
    largest = 0.0
    for mine, theirs in zip(ours, torchs, strict=True):
        for name, values in mine.items():
            expected = np.asarray(theirs[name], np.float32)
            if values.shape != expected.shape:
                return float("inf")
            gap = np.abs(values - expected)
            largest = max(largest, float(gap.max(initial=0.0))) if np.isfinite(gap).all() else float("inf")
    return largest


def check_golden(model: Model, cases: Sequence[GoldenCase], variant: Variant) -> float:
    """Return the largest difference from torch on the golden cases; a GateError if it is over the tolerance."""
    outputs = golden_outputs(model, cases)
    differences = [difference(ours, case.outputs) for ours, case in zip(outputs, cases, strict=True)]
    worst = int(np.argmax(differences))
    if differences[worst] > variant.tolerance:
        raise GateError(
            f"variant {variant.name} differs from torch by {differences[worst]:.3g} on the golden case "
            f"{str(cases[worst].input)[:40]!r}, and {variant.tolerance:.3g} is allowed",
            "this machine computes it otherwise: export on it, or choose another variant",
        )
    return differences[worst]
