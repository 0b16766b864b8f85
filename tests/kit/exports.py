"""Exports without what is not under test: one conversion for many variants, no new processes, few timed rows."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Footprint, Manifest
from tuneport.stages.export import pipeline
from tuneport.stages.export.build import Requirements, VariantBuilder
from tuneport.stages.export.build_context import build_context
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.graph import Graph
from tuneport.stages.export.source import Reference, Source, compute_reference, open_source


@contextlib.contextmanager
def quick_exports() -> Iterator[None]:
    """Let exports measure footprints in no new process, and time few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "measure_footprint", lambda *_: Footprint(memory_mib=1.0, cold_start_ms=1.0))
        patch.setattr(pipeline, "TIMED_ROWS", 4)
        yield


@dataclass(frozen=True)
class Prepared:
    """A checkpoint that is read, run in torch and converted: what variants are built from."""

    config: ExportConfig
    source: Source
    reference: Reference
    graph: Graph
    folder: Path

    def builder(self, folder: Path, **settings: Any) -> VariantBuilder:
        """Return a builder over a copy of the fp32 graph in `folder`, with changed settings."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        config = self.config.model_copy(update=settings)
        graph = replace(self.graph, folder=folder / self.graph.folder.relative_to(self.folder))
        return VariantBuilder(
            folder=folder,
            task_name=self.source.checkpoint.task,
            runtime_task=self.reference.runtime_task,
            processing=self.reference.processing,
            family=self.source.family,
            requirements=Requirements(config.device, config.objective, config.max_drop, config.mixed_precision_minutes),
            gate=self.reference.gate,
            context=build_context(config, self.source, self.reference, graph, lambda _: None),
            progress=lambda _: None,
        )


def prepare(folder: Path, checkpoint: Path, data: Path, **settings: Any) -> Prepared:
    """Take an export as far as its fp32 graph, without searches for mixed precision."""
    config = ExportConfig.model_validate(
        {"checkpoint": checkpoint, "data": str(data), "mixed_precision_minutes": 0, **settings}
    )
    source = open_source(config)
    reference = compute_reference(source, folder)
    return Prepared(config, source, reference, pipeline.convert(source, reference, folder), folder)


def export_variants(checkpoint: Path, data: Path, out: Path, *variants: str, **settings: Any) -> Manifest:
    """Export named variants."""
    config = {"checkpoint": checkpoint, "data": str(data), "variants": variants, **settings}
    return pipeline.export(ExportConfig.model_validate(config), out)


def predict(task: RuntimeTask, runner: ModelRunner, inputs: Sequence[Any]) -> list[Any]:
    """Return predictions with default parameters."""
    parsed_inputs = [task.parse_input(value) for value in inputs]
    windows = task.encode(parsed_inputs)
    results = [runner.run(rows) for rows in windows]
    parameters = task.parameters()
    return [task.decode(*each, parameters) for each in zip(parsed_inputs, windows, results, strict=True)]
