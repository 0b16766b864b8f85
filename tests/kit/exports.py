"""Exports without what is not under test: one conversion for many variants, no new processes, few timed rows."""

import contextlib
import functools
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import PICTURE, Execution, File, Footprint, Manifest
from tuneport.schema.torch_setup import CPU_REFERENCE, TorchSetup
from tuneport.stages.export import alternatives, artifact, benchmark, combine, groups, memory, pipeline, record
from tuneport.stages.export.build import Requirements, VariantBuilder
from tuneport.stages.export.build_context import build_context
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.graph import Graph
from tuneport.stages.export.passes.context import BuildContext, Pass
from tuneport.stages.export.source import Reference, Source, compute_reference, open_source
from tuneport.stages.export.steps import Steps


@contextlib.contextmanager
def one_round() -> Iterator[None]:
    """Let exports time one pass over the rows, however wide the intervals are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alternatives, "benchmark", functools.partial(benchmark.benchmark, rounds=1))
        patch.setattr(groups, "measure", functools.partial(benchmark.measure, rounds=1))
        yield


@contextlib.contextmanager
def quick_exports() -> Iterator[None]:
    """Let exports measure no footprints, draw no picture, and time few rows in one round."""

    def draw_nothing(folder: Path, manifest: Manifest) -> File:
        (folder / PICTURE).write_bytes(b"")
        return File.of(folder, PICTURE)

    with one_round(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "measure_footprint", lambda *_: Footprint(memory_mib=1.0, cold_start_ms=1.0))
        patch.setattr(groups, "TIMED_ROWS", 4)
        patch.setattr(memory, "gc", SimpleNamespace(collect=lambda: 0))  # takes longer than a step of a tiny model
        patch.setattr(artifact, "draw_pareto", draw_nothing)
        patch.setattr(combine, "draw_pareto", draw_nothing)
        yield


@dataclass(frozen=True)
class Prepared:
    """A checkpoint that is read, run in torch and converted: what variants are built from."""

    config: ExportConfig
    source: Source
    reference: Reference
    graph: Graph
    folder: Path

    def builder(
        self, folder: Path, progress: Callable[[str], object] = lambda _: None, **settings: Any
    ) -> VariantBuilder:
        """Return a builder over a copy of the fp32 graph in `folder`, with changed settings."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        config = self.config.model_copy(update=settings)
        steps = Steps(progress)
        graph = replace(self.graph, folder=folder / self.graph.folder.relative_to(self.folder))
        return VariantBuilder(
            folder=folder,
            task_name=self.source.checkpoint.task,
            runtime_task=self.reference.runtime_task,
            processing=self.reference.processing,
            family=self.source.family,
            requirements=Requirements.of(config),
            gate=self.reference.gate,
            context=build_context(config, self.source, self.reference, graph, steps),
            steps=steps,
        )


def prepare(folder: Path, checkpoint: Path, data: Path, **settings: Any) -> Prepared:
    """Take an export as far as its fp32 graph, without searches for mixed precision."""
    config = ExportConfig.model_validate(
        {"checkpoint": checkpoint, "data": str(data), "mixed_precision_minutes": 0, **settings}
    )
    source = open_source(config)
    reference = compute_reference(source, folder, CPU_REFERENCE)
    return Prepared(config, source, reference, pipeline.convert(source, reference, folder), folder)


def reuse_conversion(prepared: Prepared, patch: pytest.MonkeyPatch) -> None:
    """Let exports take torch's outputs and the fp32 graph of `prepared` instead of computing them again."""

    def reuse_reference(source: Source, folder: Path, setup: TorchSetup, steps: Steps) -> Reference:
        shutil.copytree(prepared.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("onnx"))
        return prepared.reference

    def copy_graph(source: Source, reference: Reference, folder: Path) -> Graph:
        copy = Path(shutil.copytree(prepared.graph.folder, folder / "onnx" / "fp32"))
        return Graph(copy, prepared.graph.files)

    patch.setattr(pipeline, "open_source", lambda config: prepared.source)
    patch.setattr(pipeline, "compute_reference", reuse_reference)
    patch.setattr(pipeline, "convert", copy_graph)


def export_variants(checkpoint: Path, data: Path, out: Path, *variants: str, **settings: Any) -> Manifest:
    """Export named variants, timed in one pass over the rows."""
    config = {"checkpoint": checkpoint, "data": str(data), "variants": variants, **settings}
    with one_round():
        return pipeline.export(ExportConfig.model_validate(config), out)


def export_tiny(checkpoint: Path, out: Path, name: str) -> Path:
    """Export the fp32 variant of a bare checkpoint, without data, under a name; returns the artifact."""
    with quick_exports():
        pipeline.export(ExportConfig(checkpoint=checkpoint, name=name, variants=("fp32",)), out)
    return out


def predict(task: RuntimeTask, runner: ModelRunner, inputs: Sequence[Any]) -> list[Any]:
    """Return predictions with default parameters."""
    parsed_inputs = [task.parse_input(value) for value in inputs]
    windows = task.encode(parsed_inputs)
    results = [runner.run(rows) for rows in windows]
    parameters = task.parameters()
    return [task.decode(*each, parameters) for each in zip(parsed_inputs, windows, results, strict=True)]


def shift(by: float) -> Pass:
    """Return a pass that adds to the first label's logit."""

    def shift_logits(graph: Graph, context: BuildContext, folder: Path) -> Graph:
        model = onnx.load(graph.path)
        bias = next(each for each in model.graph.initializer if each.name == "classifier.bias")
        values = numpy_helper.to_array(bias).copy()
        values[0] += by
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        onnx.save(model, folder / "model.onnx")
        return Graph(folder, ("model.onnx",))

    return shift_logits


class FakeRunner(ModelRunner):
    """Returns torch's outputs, each shifted by what `error` returns for the rows of its batch."""

    supports_streams = False
    streams = 1
    limits = BatchLimits()

    def __init__(
        self,
        prepared: Prepared,
        error: Callable[[Sequence[EncodedInput]], float],
        *,
        single_row_batches: bool = False,
    ) -> None:
        """Remember torch's outputs on the rows of golden cases and data."""
        gate = prepared.reference.gate
        self.single_row_batches = single_row_batches
        self.task = prepared.reference.runtime_task
        self._error = error
        self._outputs = {
            tuple(rows[0].ids): outputs[0]["logits"] for rows, outputs in zip(gate.windows, gate.expected, strict=True)
        }
        for case in gate.golden:
            ((row,),) = self.task.encode([self.task.parse_input(case.input)])
            self._outputs[tuple(row.ids)] = np.asarray(case.outputs[0]["logits"], np.float32)

    def run_batch(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Return the outputs of rows; of one at a time with `single_row_batches`."""
        if self.single_row_batches and len(rows) > 1:
            return [self.run_batch([row])[0] for row in rows]
        return [{"logits": self._outputs[tuple(row.ids)] + np.float32(self._error(rows))} for row in rows]


def count_open_runners(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets, whenever a variant is opened, how many are open then."""
    opened: weakref.WeakSet[ModelRunner] = weakref.WeakSet()
    counts: list[int] = []
    open_runner = VariantBuilder.open

    def count(builder: VariantBuilder, execution: Execution) -> ModelRunner:
        runner = open_runner(builder, execution)
        opened.add(runner)
        counts.append(len(opened))
        return runner

    monkeypatch.setattr(VariantBuilder, "open", count)
    return counts
