"""How latency and throughput scale: with input length, batch, streams and model size.

    python -m tuneport.stages.benchmarks.scaling --tokenizer MODEL --data DIR --out DIR [--sizes 5,11,22,66,110]

The models are seeded random encoders: speed does not depend on what weights say. Each is exported, so that its variants
have passed their gate, and timed beside torch. Writes scaling.json, scaling.md and scaling.html.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.folders import check_out, git_commit, new_folder
from tuneport.host import Host, usable_cores
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.loading import build_runner, open_task
from tuneport.schema.artifact import Manifest, Variant
from tuneport.schema.loading import load_manifest
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export
from tuneport.stages.finetune.embedded import resolve_model

from .config import BenchConfig
from .engine import bench
from .gpu_check.models import random_bert
from .machine import MachineState
from .page import Page, write_page
from .report import markdown_table
from .scaling_pictures import scaling_figures
from .scaling_report import ScalingReport, SizeResult, StreamTiming, scaling_tables

JSON, TABLE, HTML = "scaling.json", "scaling.md", "scaling.html"
SIZES = {5: (4, 128), 11: (4, 256), 22: (6, 384), 66: (6, 768), 110: (12, 768)}
"""Millions of parameters with a vocabulary of 30,000 → layers and hidden size."""
VARIANTS = ("fp32", "int8", "openvino-bf16")
MAX_LENGTH = 512
LENGTHS = tuple(f"1x{length}" for length in (8, 16, 32, 64, 128, 256, 512))
BATCHES = tuple(f"{rows}x32" for rows in (2, 4, 8, 16, 32, 64, 128))
STREAM_SECONDS, STREAM_TOKENS, STREAM_ROWS = 1.0, 32, 4
"""How long each number of streams is timed, and the shape of the batches that each stream runs."""


def run(
    tokenizer: str, data: Path, out: Path, sizes: Sequence[int], progress: Callable[[str], object] = lambda _: None
) -> ScalingReport:
    """Measure every size and write the report; raises TuneportError for a size that is not of `SIZES`."""
    if unknown := [size for size in sizes if size not in SIZES]:
        raise TuneportError(f"no model of {unknown[0]} million parameters", f"choose of {', '.join(map(str, SIZES))}")
    check_out(out, marker=JSON, overwrite=False)
    with tempfile.TemporaryDirectory() as scratch:
        results = tuple(measure_size(size, tokenizer, data, Path(scratch) / str(size), progress) for size in sizes)
    report = ScalingReport(
        host=Host.here(),
        machine=MachineState.now(),
        git_commit=git_commit(Path(__file__).parent),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sizes=results,
        notes=tuple(dict.fromkeys(note for each in results for note in each.report.notes)),
    )
    with new_folder(out, marker=JSON, overwrite=False) as folder:
        write_scaling(folder, report)
    return report


def measure_size(
    millions: int, tokenizer: str, data: Path, folder: Path, progress: Callable[[str], object]
) -> SizeResult:
    """Make a model, export it, and time it."""
    layers, hidden_size = SIZES[millions]
    progress(f"{millions} M parameters: making and exporting the model")
    folder.mkdir()
    model, size = Path(resolve_model(tokenizer)), {"layers": layers, "hidden_size": hidden_size}
    random_bert(model, data, folder, **size, max_length=MAX_LENGTH)
    artifact = folder / "artifact"
    wanted = VARIANTS if Host.here().has_bf16 else VARIANTS[:2]
    config = ExportConfig(
        checkpoint=folder / "checkpoint", data=str(folder / "data"), name=f"bert-{millions}m", variants=wanted
    )
    export(config, artifact)
    progress(f"{millions} M parameters: timing")
    settings = BenchConfig(artifact=artifact, num_inputs=100, rounds=1, shapes=(*LENGTHS, *BATCHES))
    report = bench(settings, folder / "report")
    manifest = load_manifest(artifact)
    streams = tuple(
        time_streams(artifact, manifest, variant, count)
        for variant in manifest.variants
        for count in range(1, usable_cores() + 1)
    )
    return SizeResult(millions=millions, layers=layers, hidden_size=hidden_size, report=report, streams=streams)


def time_streams(artifact: Path, manifest: Manifest, variant: Variant, streams: int) -> StreamTiming:
    """Run batches of one shape in every stream at the same time."""
    execution = variant.execution.model_copy(update={"streams": streams})
    task = open_task(artifact, manifest.task, manifest.labels, manifest.processing)
    runner = build_runner(artifact, manifest.task, task, execution, manifest.processing)
    ids = task.encode([task.parse_input("a " * STREAM_TOKENS)])[0][0].ids[:STREAM_TOKENS]
    batch = [EncodedInput(list(ids), [0] * len(ids), False)] * STREAM_ROWS
    ends_at = time.perf_counter() + STREAM_SECONDS

    def work(_: int) -> int:
        runner.run_batch(batch)
        done = 0
        while time.perf_counter() < ends_at:
            runner.run_batch(batch)
            done += STREAM_ROWS
        return done

    with ThreadPoolExecutor(streams) as pool:
        texts = sum(pool.map(work, range(streams)))
    return StreamTiming(variant=variant.name, streams=streams, texts_per_s=round(texts / STREAM_SECONDS, 1))


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
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="millions of parameters")
    options = parser.parse_args()
    try:
        sizes = [int(size) for size in options.sizes.split(",")]
        run(options.tokenizer, options.data, options.out, sizes, lambda step: sys.stderr.write(f"{step}\n"))
    except TuneportError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write((options.out / TABLE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
