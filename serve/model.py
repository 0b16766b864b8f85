"""A task and an engine, joined: inputs to raw outputs. The gate, the benchmarks and serving all use it."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.files import EngineError, GateError
from export.manifest import PROCESSOR, TOKENIZER, GoldenCase, Manifest, Processing, Variant
from serve.batcher import Result
from serve.engines import Engine, open_engine
from serve.plan import DEFAULT_TOKENS, Budget, plan
from serve.tasks import Task, task_class
from serve.tokenizer import Row, TextTokenizer, pad, span

TIE = 2e-3
"""Logits that differ by less than an engine's rounding, on either side (`EXACT` of the export), are alike."""
END = -1
"""Stands for the end of an answer, which a longer one has not reached there."""


class Model:
    """Runs rows through an engine."""

    def __init__(
        self,
        task: Task,
        engine: Engine,
        processing: Processing,
        batch_tokens: int = DEFAULT_TOKENS,
        *,
        alone: bool = False,
    ) -> None:
        """Join the two; `alone` as in the manifest's `Variant`."""
        self.task = task
        self.engine = engine
        self.alone = alone
        self.budget = Budget(1 if alone else batch_tokens, engine.step, processing.max_length)
        """Of the batches that serve best, unless a deployment sets another."""
        self._processing = processing

    splits = True
    """Whether the processors may be shared out among several streams."""

    @property
    def streams(self) -> int:
        """How many batches may run at a time."""
        return self.engine.streams

    def run_batch(self, rows: Sequence[Row]) -> list[Result]:
        """Run rows in one batch, padded to the longest; one result a row, without its padding."""
        if self.alone and len(rows) > 1:
            return [self.run_batch([row])[0] for row in rows]
        longest = self.budget.padded(max(map(len, rows)))
        outputs = self.engine.run(pad(rows, self._processing, longest))
        results = [{name: values[i] for name, values in outputs.items()} for i in range(len(rows))]
        if not self.task.per_token:
            return results
        places = [span(row, longest, self._processing) for row in rows]
        return [{name: values[at] for name, values in each.items()} for each, at in zip(results, places, strict=True)]

    def run(self, rows: Sequence[Row]) -> list[Result]:
        """Run any number of rows in micro-batches of like length; results in order."""
        results: list[Result] = [{}] * len(rows)
        for batch in plan([len(row) for row in rows], self.budget):
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
    if processing.generation:
        with needs_generate():
            from serve.generative import open_writer
        return open_writer(folder, task, variant, processing, threads)
    batch_tokens = variant.timing.batch_tokens if variant.timing else DEFAULT_TOKENS
    engine = open_engine(folder, variant, threads=threads)
    return Model(task, engine, processing, batch_tokens, alone=variant.alone)


def open_task(folder: Path, name: str, labels: tuple[str, ...], processing: Processing) -> Task:
    """Open the tokenizer in `folder` and the task over it."""
    if processing.generation:
        with needs_generate():
            from serve.processor import TextProcessor
        processor: Any = TextProcessor(folder / PROCESSOR, processing)
        return task_class(name)(labels, processing, processor)
    return task_class(name)(labels, processing, TextTokenizer(folder / TOKENIZER, processing))


@contextlib.contextmanager
def needs_generate() -> Iterator[None]:
    """Name the remedy where a generative task's packages are not installed."""
    try:
        yield
    except ImportError as error:
        raise EngineError(f"models that write need {error.name}", "install tuneport[generate]") from error


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
    """Return the largest |Δ| of an input's outputs; of generated tokens the share that is not torch's.

    Infinite where windows or shapes are not torch's, or where a value is not finite.
    """
    if len(ours) == len(torchs) == 1 and "tokens" in ours[0] and "tokens" in torchs[0]:
        return written_difference(ours[0], torchs[0])
    if len(ours) != len(torchs) or any(a.keys() != b.keys() for a, b in zip(ours, torchs, strict=True)):
        return float("inf")
    largest = 0.0
    for mine, theirs in zip(ours, torchs, strict=True):
        for name, values in mine.items():
            expected = np.asarray(theirs[name], np.float32)
            if values.shape != expected.shape:
                return float("inf")
            with np.errstate(invalid="ignore"):  # inf - inf is not finite either
                gap = np.abs(values - expected)
            largest = max(largest, float(gap.max(initial=0.0))) if np.isfinite(gap).all() else float("inf")
    return largest


def written_difference(ours: Result, torchs: dict[str, Any]) -> float:
    """Return the share of an answer's tokens that are not torch's, or how far known answers' losses are off if more.

    Where torch's own choice hung on less than `TIE`, another is as right, and what follows it is another text.
    """
    mine, theirs = ([*map(int, each["tokens"]), END] for each in (ours, torchs))
    places = [i for i in range(max(len(mine), len(theirs))) if mine[i : i + 1] != theirs[i : i + 1]]
    margins = torchs.get("margins", ())
    is_tie = bool(places) and places[0] < len(margins) and float(margins[places[0]]) <= TIE
    share = 0.0 if is_tie else len(places) / max(len(mine), len(theirs))
    if "losses" not in torchs:
        return share
    gap = np.abs(np.asarray(ours["losses"]) - np.asarray(torchs["losses"], np.float32))
    return max(share, float(gap.max(initial=0.0))) if np.isfinite(gap).all() else float("inf")


def check_golden(model: Model, cases: Sequence[GoldenCase], variant: Variant) -> float:
    """Return the largest difference from torch on the golden cases; a GateError if it is over the tolerance."""
    outputs = golden_outputs(model, cases)
    differences = [difference(ours, case.outputs) for ours, case in zip(outputs, cases, strict=True)]
    figure, worst = golden_figure(differences, cases), int(np.argmax(differences))
    if not figure <= variant.tolerance:
        raise GateError(
            f"variant {variant.name} differs from torch by {figure:.3g}, most on the golden case "
            f"{str(cases[worst].input)[:40]!r}, and {variant.tolerance:.3g} is allowed",
            "this machine computes it otherwise: export on it, or choose another variant",
        )
    return figure


def golden_figure(differences: Sequence[float], cases: Sequence[GoldenCase]) -> float:
    """Return what golden cases show of a variant: the largest difference, of generated tokens the mean.

    One token that tips over changes all of its answer, so that a quantized model's largest share says nothing.
    """
    is_written = "tokens" in cases[0].outputs[0]
    return float(np.mean(differences) if is_written else max(differences))
