"""How latency and throughput scale: with input length, batch, streams, workers and model size.

    python -m tuneport.stages.benchmarks.scaling --tokenizer MODEL --data DIR --out DIR [--quick] [--minutes 10]

The models are seeded random encoders: speed does not depend on what weights say. Each is converted and quantized as an
export does it and timed beside torch. fp32 has to pass its gate. What quantization costs a random model says nothing
about a trained one, so that the other variants are timed however they answer. Writes scaling.json, scaling.md and
scaling.html.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.folders import check_out, new_folder
from tuneport.host import Host, usable_cores
from tuneport.schema.artifact import Rejected
from tuneport.stages.export.applicable import select_variants
from tuneport.stages.export.baselines import baseline_setups
from tuneport.stages.export.build import FP32, Passed
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import prepare_builder
from tuneport.stages.export.source import compute_reference, open_source
from tuneport.stages.export.steps import Steps
from tuneport.stages.export.target import BenchmarkTarget
from tuneport.stages.finetune.embedded import resolve_model

from .command import one_line_errors
from .gpu_check.models import random_bert
from .machine import MachineState
from .origin import origin_here
from .page import Page, write_page
from .report import markdown_table
from .scaling_cores import TOKENS, divisions, time_streams, time_workers
from .scaling_pictures import scaling_figures
from .scaling_report import ScalingReport, SizeResult, scaling_tables
from .shapes import parse_shapes, time_shapes

JSON, TABLE, HTML = "scaling.json", "scaling.md", "scaling.html"
SIZES = {5: (4, 128), 11: (4, 256), 22: (6, 384), 66: (6, 768), 110: (12, 768)}
"""Millions of parameters with a vocabulary of 30,000 → layers and hidden size."""
QUICK_SIZES = (5, 22)
VARIANTS = ("fp32", "int8", "openvino-bf16")
MAX_LENGTH = 512
SHAPES = (
    "1x8", "1x16", "1x32", "1x64", "1x128", "1x256", "1x512", "2x32", "4x32", "8x32", "16x32", "32x32", "64x32",
    "128x32",
)  # fmt: skip
QUICK_SHAPES = ("1x8", "1x128", "1x512", "8x32", "128x32")
ROWS = {"train": 32, "validation": 32, "test": 32}
"""Texts of each split: enough to tell a wrong conversion."""
ANY_AGREEMENT = 0.01
"""With 0 the gate asks whether the metric alone could show that a model is broken."""
MINUTES, QUICK_MINUTES = 10.0, 3.0


def run(
    tokenizer: str,
    data: Path,
    out: Path,
    sizes: Sequence[int],
    *,
    shapes: Sequence[str] = SHAPES,
    minutes: float = MINUTES,
    overwrite: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> ScalingReport:
    """Measure every size and write the report; raises TuneportError for a size that is not of `SIZES`.

    Each size has an equal share of the time that is left. Shapes that are not timed by then, the slowest ones, are left
    out, and named; the models and their variants are made however long that takes.
    """
    if unknown := [size for size in sizes if size not in SIZES]:
        raise TuneportError(f"no model of {unknown[0]} million parameters", f"choose of {', '.join(map(str, SIZES))}")
    check_out(out, marker=JSON, overwrite=overwrite)
    started, machine, results = time.monotonic(), MachineState.now(), []
    with tempfile.TemporaryDirectory() as scratch:
        for number, size in enumerate(sizes):
            now = time.monotonic()
            ends_at = now + (started + 60 * minutes - now) / (len(sizes) - number)
            folder = Path(scratch) / str(size)
            results.append(measure_size(size, tokenizer, data, folder, shapes, ends_at, progress))
    report = ScalingReport(
        **origin_here(),
        machine=machine,
        sizes=tuple(results),
        notes=tuple(note for each in results for note in notes_of(each, shapes)),
        seconds=round(time.monotonic() - started, 1),
    )
    with new_folder(out, marker=JSON, overwrite=overwrite) as folder:
        write_scaling(folder, report)
    return report


def measure_size(
    millions: int,
    tokenizer: str,
    data: Path,
    folder: Path,
    shapes: Sequence[str],
    ends_at: float,
    progress: Callable[[str], object],
) -> SizeResult:
    """Make a model and its variants, and time them until `ends_at`, a time of `time.monotonic`."""
    layers, hidden_size = SIZES[millions]
    progress(f"{millions} M parameters: making the model and its variants")
    folder.mkdir()
    model, size = Path(resolve_model(tokenizer)), {"layers": layers, "hidden_size": hidden_size}
    random_bert(model, data, folder, **size, max_length=MAX_LENGTH, splits=ROWS)
    config = ExportConfig(checkpoint=folder / "checkpoint", data=str(folder / "data"), mixed_precision_minutes=0)
    source, setups = open_source(config), baseline_setups("cpu")
    artifact = folder / "artifact"
    artifact.mkdir()
    reference = compute_reference(source, artifact, setups[0])
    builder = prepare_builder(config, source, reference, reference.processing, artifact, Steps())
    builder = replace(builder, requirements=replace(builder.requirements, max_drop=1.0))
    specs = select_variants(_variants(), "cpu")
    outcomes = [
        builder.build_and_validate(name, spec if name == FP32 else replace(spec, min_agreement=ANY_AGREEMENT))
        for name, spec in specs.items()
    ]
    executions = {each.candidate.name: each.candidate.execution for each in outcomes if isinstance(each, Passed)}
    progress(f"{millions} M parameters: timing")
    targets = {
        setup.name: BenchmarkTarget.of_torch(reference.model.with_setup(setup), has_batch_choice=False)
        for setup in setups
    }
    for name, execution in executions.items():
        targets[name] = BenchmarkTarget.of_runner(builder.open(execution), execution.device, execution.precision)
    ids = max(reference.gate.golden_rows, key=len).ids[:TOKENS]
    counts = divisions(usable_cores())
    ordered = sorted(parse_shapes(shapes), key=lambda shape: shape[0] * shape[1])
    streams = [time_streams(builder, *each, ids, count) for each in executions.items() for count in counts]
    labels = source.checkpoint.labels
    workers = [time_workers(builder, labels, *each, ids, count) for each in executions.items() for count in counts]
    timings, _ = time_shapes(
        targets, reference.gate.golden_rows, ordered, max_length=MAX_LENGTH, ends_at=ends_at, progress=progress
    )
    return SizeResult(
        millions=millions,
        layers=layers,
        hidden_size=hidden_size,
        shapes=timings,
        streams=tuple(streams),
        workers=tuple(workers),
        left_out=tuple(f"{each.name}: {each.reason}" for each in outcomes if isinstance(each, Rejected)),
    )


def _variants() -> tuple[str, ...]:
    return VARIANTS if Host.here().has_bf16 else VARIANTS[:2]


def notes_of(size: SizeResult, shapes: Sequence[str]) -> list[str]:
    """Say which variants and shapes were not timed."""
    notes = [f"{size.millions} M parameters, without {reason}." for reason in size.left_out]
    timed = {(each.rows, each.tokens) for timings in size.shapes.values() for each in timings}
    missing = [f"{rows} × {tokens}" for rows, tokens in parse_shapes(shapes) if (rows, tokens) not in timed]
    if missing:
        notes.append(f"{size.millions} M parameters: no time was left for the shapes {', '.join(missing)}.")
    return notes


def write_scaling(folder: Path, report: ScalingReport) -> None:
    """Write scaling.json, scaling.md and scaling.html."""
    (folder / JSON).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    title = f"Scaling on {report.host.cpu}, {report.host.cores} cores"
    tables = scaling_tables(report)
    remarks = (report.machine.describe(), *report.notes)
    parts = [f"# {title}", *(f"## {name}\n\n{markdown_table(*cells)}" for name, cells in tables), *remarks]
    (folder / TABLE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    page = Page(title=title, tables=tables, paragraphs=remarks, figures=scaling_figures(report))
    write_page(folder / HTML, page)


def main() -> None:
    """Parse the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokenizer", default="minilm-l6", help="model whose tokenizer the models have")
    parser.add_argument("--data", type=Path, required=True, help="folder with train, validation and test in JSONL")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--sizes", help="millions of parameters, such as 5,22")
    parser.add_argument("--minutes", type=float, help="when to stop timing")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it holds a report")
    parser.add_argument("--quick", action="store_true", help="two sizes and a few shapes, in about 3 minutes")
    options = parser.parse_args()
    sizes = QUICK_SIZES if options.quick else tuple(SIZES)
    with one_line_errors():
        run(
            options.tokenizer,
            options.data,
            options.out,
            [int(size) for size in options.sizes.split(",")] if options.sizes else sizes,
            shapes=QUICK_SHAPES if options.quick else SHAPES,
            minutes=options.minutes or (QUICK_MINUTES if options.quick else MINUTES),
            overwrite=options.overwrite,
            progress=lambda step: sys.stderr.write(f"{step}\n"),
        )
    sys.stdout.write((options.out / TABLE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
