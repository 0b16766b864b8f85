"""Prove the project on a GPU, or refute it: fine-tune, export, verify, serve, ask, time, and compare with torch.

    python -m tuneport.stages.benchmarks.gpu_check [--device cuda|cpu] [--model M] [--data D] [--out DIR] [--floors]

Needs no network. Each step is a process of its own, bounded in time; a step that fails hides no other one. Writes
report.json and report.md after each step, and report.png at the end, and exits with 1 if a step failed or was not run,
an answer was wrong, a variant was rejected or did not run on the GPU, or a speed is below its floor. On a CPU the same
steps run with little data and without floors.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneport.folders import check_out, new_folder
from tuneport.gpu import use_first_gpu
from tuneport.host import Host
from tuneport.schema.loading import load_run
from tuneport.schema.run import RUN, Training
from tuneport.schema.torch_setup import TorchDevice
from tuneport.stages.finetune.embedded import MODEL

from ..command import one_line_errors
from ..origin import origin_here
from ..report import REPORT
from ..training import REPORT as TRAINING_REPORT
from ..training import TrainingReport
from .config import FLOORS_MINUTES, MINUTES
from .plan import PACKAGE, TRAINING, plan_steps, remove_earlier
from .report import GpuCheckReport, write_gpu_report
from .steps import StepResult, read_json, run_steps

REPORTS = Path("benchmarks/reports/gpu")


def gpu_check(
    device: TorchDevice,
    out: Path,
    work: Path,
    *,
    model: str,
    data: str | None,
    minutes: float,
    is_floors_only: bool = False,
) -> GpuCheckReport:
    """Run every step with its files in `work`, and write the report into `out` after each; returns the report."""

    def report(results: tuple[StepResult, ...]) -> GpuCheckReport:
        return GpuCheckReport(
            schema_version=2,
            name=report_name(device),
            device=device,
            model=Path(model).name,
            data=Path(data).name if data else "BBC News",
            **origin_here(),
            minutes=minutes,
            is_floors_only=is_floors_only,
            steps=results,
            finetuning=read_finetuning(work / "run"),
            training=read_training(work / TRAINING),
            bench=_read(work / "bench" / REPORT),
            endpoint=_read(work / "endpoint" / REPORT),
            generation=_read(work / "generation" / REPORT),
        )

    def keep(results: tuple[StepResult, ...], *, has_picture: bool = False) -> GpuCheckReport:
        found = report(results)
        with new_folder(out, marker=REPORT, overwrite=True) as folder:
            write_gpu_report(folder, found, has_picture=has_picture)
        return found

    steps = plan_steps(device, model, data, work, is_floors_only=is_floors_only)
    remove_earlier(steps)
    results = run_steps(steps, work, limit_s=60 * minutes, progress=_print, keep=keep)
    return keep(results, has_picture=True)


def _print(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def read_finetuning(run: Path) -> Training | None:
    """Read how a run trained, and how fast; None if there is none."""
    return load_run(run).training if (run / RUN).is_file() else None


def read_training(folder: Path) -> TrainingReport | None:
    """Read the comparison with a plain Trainer, without the folders of the machine; None if there is none."""
    if (content := read_json(folder / TRAINING_REPORT)) is None:
        return None
    report = TrainingReport.model_validate(content)
    names = {name: Path(getattr(report.settings, name)).name for name in ("data", "model")}
    return report.model_copy(update={"settings": report.settings.model_copy(update=names)})


def report_name(device: TorchDevice) -> str:
    """Return the name of the device's folder of reports, such as `nvidia-h100-80gb-hbm3`."""
    gpus = Host.here().gpus
    name = gpus[0].name if device == "cuda" and gpus else device
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _read(file: Path) -> dict[str, Any] | None:
    """Read a report without what names folders of the machine: its settings and the source of its data."""
    if (content := read_json(file)) is None:
        return None
    return {name: value for name, value in content.items() if name not in ("config", "data")}


def _minutes(value: str) -> float:
    minutes = float(value)
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is no duration above 0")
    return minutes


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, run the check, and print its table."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PACKAGE}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", default=MODEL, help="an encoder to fine-tune; by default the embedded MiniLM-L6")
    parser.add_argument("--data", help="a folder with train, validation and test JSONL; by default BBC News")
    parser.add_argument("--out", type=Path, help=f"the report's folder; by default {REPORTS}/NAME OF THE GPU")
    parser.add_argument("--work", type=Path, help="keep models, artifacts and logs in this folder")
    parser.add_argument("--floors", action="store_true", help="run only the steps on which the floors depend")
    parser.add_argument(
        "--minutes",
        type=_minutes,
        help=f"after which no step starts or goes on; by default {MINUTES:g}, with --floors {FLOORS_MINUTES:g}",
    )
    options = parser.parse_args(arguments)
    if options.device == "cuda":
        use_first_gpu()  # that of the report, in every step
    out = options.out or REPORTS / report_name(options.device)
    minutes = options.minutes if options.minutes is not None else FLOORS_MINUTES if options.floors else MINUTES
    settings = {"model": options.model, "data": options.data, "minutes": minutes, "is_floors_only": options.floors}
    with one_line_errors():
        check_out(out, marker=REPORT, overwrite=True)
        with tempfile.TemporaryDirectory(prefix="gpu-check-") as temporary:
            work = options.work or Path(temporary)
            work.mkdir(parents=True, exist_ok=True)
            report = gpu_check(options.device, out, work.resolve(), **settings)
    sys.stdout.write(report.text())
    sys.exit(0 if report.is_passed else 1)
