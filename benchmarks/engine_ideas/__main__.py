"""Measure what each idea for a faster engine on CPUs gives on a checkpoint, beside torch.

    python -m tuneport.stages.benchmarks.engine_ideas CHECKPOINT [--data DATA] [--ideas int8,static] [--minutes 2]

Every idea is built with the passes of the export and compared with torch, whatever it loses; then all are timed in
turns. Prints a table in Markdown. `--minutes` is the time to train each of the students.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuneport.errors import EngineError, TuneportError
from tuneport.host import Host
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Rejected
from tuneport.stages.export.baselines import baseline_setups
from tuneport.stages.export.benchmark import benchmark
from tuneport.stages.export.build import Passed, VariantBuilder
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.groups import TIMED_ROWS
from tuneport.stages.export.pipeline import prepare_builder
from tuneport.stages.export.results import BenchmarkResult
from tuneport.stages.export.source import Reference, Source, compute_reference, open_source
from tuneport.stages.export.steps import Steps
from tuneport.stages.export.student import StudentSource
from tuneport.stages.export.target import BenchmarkTarget

from ..command import one_line_errors
from ..report import markdown_table
from .buckets import BucketRunner
from .ideas import INT8, Idea, ideas

Progress = Callable[[str], object]
MIN_AGREEMENT = 0.01
"""With 0 the gate asks whether the metric alone could show that a model is broken."""


@dataclass(frozen=True)
class Built:
    """An idea that could be built."""

    passed: Passed
    runner: ModelRunner
    error: float
    """Mean |Δ| of the outputs."""
    open_ms: float


def measure(config: ExportConfig, names: Sequence[str], progress: Progress) -> str:
    """Build and time ideas, all if none are named; returns a table and the reasons why others are not in it."""
    source, setups = open_source(config), baseline_setups("cpu")
    chosen = ideas(getattr(source.checkpoint.config, "num_hidden_layers", 0))
    if unknown := [name for name in names if name not in chosen]:
        raise TuneportError(f"there is no idea {unknown[0]!r}", f"choose among {', '.join(chosen)}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        progress("computing torch's outputs")
        reference = compute_reference(source, folder, setups[0])
        builder = prepare_builder(config, source, reference, reference.processing, folder, Steps(progress))
        built: dict[str, Built] = {}
        reasons = []
        for name, idea in chosen.items():
            if names and name not in (INT8, *names):
                continue
            progress(f"building {name}")
            try:
                built[name] = build(builder, config, source, reference, name, idea)
            except EngineError as error:
                reasons.append(f"{idea.what}: {error.problem}")
        targets = {
            setup.name: BenchmarkTarget.of_torch(reference.model.with_setup(setup), has_batch_choice=True)
            for setup in setups
        }
        for name, each in built.items():
            precision = each.passed.candidate.execution.precision
            is_student = bool(chosen[name].prune_layers)
            targets[name] = BenchmarkTarget.of_runner(each.runner, "cpu", precision, is_student=is_student)
        rows = reference.gate.rows[:TIMED_ROWS]
        results = benchmark(targets, rows, progress=progress)
    title = f"{len(rows)} rows of {sum(map(len, rows)) / len(rows):.0f} tokens, {Host.here().cpu}, "
    title += f"{Host.here().cores} cores, {', '.join(Host.here().instructions)}"
    return "\n".join([title, "", table(chosen, built, results), "", *reasons])


def build(
    builder: VariantBuilder, config: ExportConfig, source: Source, reference: Reference, name: str, idea: Idea
) -> Built:
    """Build an idea and compare it with torch, without limits; raises EngineError if that is impossible."""
    changes = dict(idea.changes)
    if idea.prune_layers:
        if not config.distill_minutes:
            raise EngineError("there is no time to train a student", "raise --minutes")
        settings = config.model_copy(update={"prune_layers": idea.prune_layers})
        changes["student"] = StudentSource(settings, source, reference, builder.steps)
    context = replace(builder.context, **changes)
    requirements = replace(builder.requirements, max_drop=1.0, mixed_precision_minutes=0)
    changed = replace(builder, context=context, requirements=requirements, _built={})
    outcome = changed.build_and_validate(
        name, replace(idea.spec, min_agreement=MIN_AGREEMENT) if name != "fp32" else idea.spec
    )
    if isinstance(outcome, Rejected):
        raise EngineError(outcome.reason, "leave it out")
    execution = outcome.candidate.execution.model_copy(update={"streams": idea.streams, "single_row_batches": False})
    started = time.perf_counter()
    if idea.has_buckets:
        path = builder.folder / execution.files[0].path
        runner: ModelRunner = BucketRunner(path, reference.runtime_task, reference.processing)
    else:
        runner = builder.open(execution)
    open_ms = 1000 * (time.perf_counter() - started)
    return Built(outcome, runner, reference.gate.mean_error(runner), open_ms)


def table(chosen: Mapping[str, Idea], built: Mapping[str, Built], results: Mapping[str, BenchmarkResult]) -> str:
    """Format the figures; speeds are against dynamic int8 and against the fastest torch."""
    torch = max((name for name in results if name not in built), key=lambda name: results[name].timing.texts_per_s)
    header = ["", "texts/s", f"of {INT8}", f"of {torch}", "p50 ms", "opens, ms", "MB", "mean error", "metric", "change"]
    lines = []
    for name, result in results.items():
        speeds = [_times(result.speed_over(results[other])) for other in (INT8, torch)]
        cells = [f"{result.timing.texts_per_s:.0f}", *speeds, f"{result.timing.latency_ms_p50:.1f}"]
        if name in built:
            each = built[name]
            size, metric = each.passed.candidate.execution.size_bytes / 1e6, each.passed.metric
            cells += [f"{each.open_ms:.0f}", f"{size:.1f}", f"{each.error:.4f}"]
            cells += [f"{metric.value:.4f}", f"{metric.value - metric.torch:+.4f}"] if metric else ["", ""]
        else:
            cells += [""] * 5
        lines.append([chosen[name].what if name in built else name, *cells])
    return markdown_table(header, lines)


def _times(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{low:.2f} to {high:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, and measure."""
    parser = argparse.ArgumentParser(
        prog="python -m tuneport.stages.benchmarks.engine_ideas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", help="labelled data; by default that of the run")
    parser.add_argument("--ideas", default="", help="names, separated by commas; by default all")
    parser.add_argument("--minutes", type=float, default=2.0, help="to train each student; 0: no students")
    parser.add_argument("--rows", type=int, default=1000, help="validation rows to compare")
    options = parser.parse_args(arguments)
    with one_line_errors():
        config = ExportConfig(
            checkpoint=options.checkpoint,
            data=options.data,
            max_drop=1.0,
            max_gate_rows=options.rows,
            distill_minutes=options.minutes,
        )
        names = [name for name in options.ideas.split(",") if name]
        sys.stdout.write(measure(config, names, lambda line: sys.stderr.write(f"{line}\n")) + "\n")


if __name__ == "__main__":
    main()
