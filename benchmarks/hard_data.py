"""Fine-tune and export classifiers of several data sets, and show what each export chooses and what it costs.

    python -m tuneport.stages.benchmarks.hard_data --data FOLDER --out DIR [--sets ag_news,cola,sick] [--quick]

FOLDER has a folder for each data set, with a train file at least. Every set is trained and exported by the command
line, as a user would. A set whose artifact of the same settings is in DIR is not run again. Prints a table in Markdown.
`--quick` trains for a few steps and exports few variants, to see that all of it works.
"""

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.schema.artifact import MANIFEST, Manifest
from tuneport.schema.loading import load_manifest
from tuneport.schema.run import RUN
from tuneport.schema.torch_setup import REFERENCE
from tuneport.stages.export.variants import VARIANTS

from .command import one_line_errors, print_progress
from .report import markdown_table

SETS = ("ag_news", "cola", "sick")
TRAINING = ("num_train_epochs=3", "learning_rate=1e-4", "eval_strategy=no", "save_strategy=no")
QUICK_TRAINING = (*TRAINING, "max_steps=10")
QUICK_EXPORT = ("--max-gate-rows", "64", "--distill-minutes", "0.1", "--variants", "fp32,int8,pruned-int8")
HALF = ("torch bf16", "torch fp16")
"""Baselines of half precision; a CPU without bf16 instructions has none."""


def measure(data: Path, out: Path, *, model: str, max_drop: float, minutes: float, is_quick: bool) -> Manifest:
    """Train and export one data set, unless it was with these settings; raises TuneportError if a command fails."""
    settings = [part for each in (QUICK_TRAINING if is_quick else TRAINING) for part in ("--set", each)]
    training = ("--task", "text-classification", "--model", model, "--data", str(data), *settings)
    run = out / f"run-{key_of(training)}"
    if not (run / RUN).is_file():
        run_command("finetune", *training, "--out", str(run), "--overwrite")
    options = QUICK_EXPORT if is_quick else ("--distill-minutes", f"{minutes:g}")
    exporting = (str(run), "--max-drop", f"{max_drop:g}", *options)
    artifact = out / f"artifact-{key_of(exporting)}"
    if not (artifact / MANIFEST).is_file():
        run_command("export", *exporting, "--out", str(artifact))
    return load_manifest(artifact)


def key_of(arguments: Sequence[str]) -> str:
    """Return eight hex digits that differ between the arguments of two commands."""
    return hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:8]


def run_command(name: str, *arguments: str) -> None:
    """Run a command of tuneport; raises TuneportError with its last line if it fails."""
    print_progress(f"tuneport {name} {' '.join(arguments)}")
    command = [sys.executable, "-m", "tuneport", name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise TuneportError(f"tuneport {name} failed: {last[0][:300]}", "run it by hand")


def row_of(name: str, manifest: Manifest) -> list[str]:
    """Return the row of a data set."""
    chosen = manifest.variant(manifest.default_variant)
    timing, metric = chosen.evidence.timing, chosen.evidence.metric
    cells = [name, chosen.name, f"{timing.texts_per_s:.0f}"]
    speeds = {each.setup.name: each.timing.texts_per_s for each in manifest.baselines}
    half = next((each for each in HALF if each in speeds), None)
    for baseline in (REFERENCE, half):
        cells.append(_speed_up(timing.texts_per_s / speeds[baseline]) if baseline else "")
    low, high = timing.speed_up_interval or (timing.speed_up, timing.speed_up)
    cells.append(f"{low:.2f} to {high:.2f} {timing.baseline}")
    cells += [f"{metric.name} {metric.torch:.4f}", f"{metric.value:.4f}"] if metric else ["", ""]
    return [*cells, student_of(manifest)]


def _speed_up(ratio: float) -> str:
    return f"{ratio:.2f} x"


def student_of(manifest: Manifest) -> str:
    """Return in words what became of the student."""
    kept = [variant for variant in manifest.variants if variant.evidence.student]
    for variant in kept:
        student, metric = variant.evidence.student, variant.evidence.metric
        assert student is not None
        score = f", {metric.name} {metric.value:.4f}" if metric else ""
        layers = f"{len(student.layers)} of {student.full_layers} layers"
        return f"{variant.name}: {layers}, {student.steps} steps in {student.seconds:.0f} s{score}"
    reasons = [each.reason for each in manifest.rejected if each.name in VARIANTS and VARIANTS[each.name].student_of]
    return f"none: {reasons[0]}" if reasons else "none was tried"


def table(manifests: dict[str, Manifest]) -> str:
    """Return the table and the machine, in Markdown."""
    header = [
        "data",
        "serves",
        "texts/s",
        "of torch fp32",
        "of half precision",
        "interval",
        "torch",
        "after",
        "student",
    ]
    host = next(iter(manifests.values())).host
    rows = markdown_table(header, [row_of(name, manifest) for name, manifest in manifests.items()])
    return f"{rows}\n\n{host.cpu}, {host.cores} cores, {', '.join(host.instructions)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run every data set, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tuneport.stages.benchmarks.hard_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="runs and artifacts are written here")
    parser.add_argument("--sets", default=",".join(SETS), help="names of folders in --data")
    parser.add_argument("--model", default="minilm-l6")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--minutes", type=float, default=2.0, help="to train each student")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    manifests = {}
    try:
        with one_line_errors():
            for name in filter(None, options.sets.split(",")):
                manifests[name] = measure(
                    options.data / name,
                    options.out / name,
                    model=options.model,
                    max_drop=options.max_drop,
                    minutes=options.minutes,
                    is_quick=options.quick,
                )
    finally:
        if manifests:
            sys.stdout.write(table(manifests))


if __name__ == "__main__":
    main()
