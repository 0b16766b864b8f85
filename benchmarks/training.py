"""Training throughput of `tuneport finetune` against a plain script over transformers' Trainer.

    python -m tuneport.stages.benchmarks.training --data DIR --model M --out DIR [--max-steps N] [--rounds N] [--bf16]

Both train a text classifier on the same files, from the same model, with the same settings. Each run is a process of
its own, and the two alternate, so that other load on the host affects both. Both use the first GPU where there is one,
without TF32, else the CPU. What is timed is `Trainer.train()`. Both must reach the same validation loss on the same
device, or nothing is reported. The output folder gets training.json and training.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tuneport.errors import TuneportError
from tuneport.folders import git_commit
from tuneport.gpu import AMPERE, VISIBLE
from tuneport.host import Host
from tuneport.schema.base import Frozen

from .command import one_line_errors

REPORT, TABLE = "training.json", "training.md"
PLAIN, TUNEPORT = "plain Trainer", "tuneport"
PLAIN_MODULE = "tuneport.stages.benchmarks.peers.plain_trainer"
LEARNING_RATE, SEED = 2e-5, 42
MAX_LOSS_DIFFERENCE = 0.02
"""Relative difference of the validation losses from which the trainings count as different."""


class TrainingSettings(Frozen):
    """The settings of both trainers."""

    data: str
    """Folder with train.jsonl and validation.jsonl, `text` and `label` in each row."""
    model: str
    """A checkpoint's folder, or a name that `tuneport finetune` accepts."""
    max_steps: int
    per_device_train_batch_size: int
    max_length: int
    """Tokens of a row, special tokens included."""


class TrainingRun(Frozen):
    """One run of one trainer."""

    train_seconds: float
    loss: float
    """On validation, after training."""
    device: str
    """Name of the GPU, or of the processor."""


class TrainerResult(Frozen):
    """All runs of one trainer in one precision."""

    name: str
    bf16: bool
    runs: tuple[TrainingRun, ...]

    def rows_per_s(self, settings: TrainingSettings) -> float:
        """Return the throughput of the median run, in training rows per second."""
        rows = settings.max_steps * settings.per_device_train_batch_size
        return rows / statistics.median(run.train_seconds for run in self.runs)


class TrainingReport(Frozen):
    """training.json."""

    settings: TrainingSettings
    results: tuple[TrainerResult, ...]
    """The plain Trainer in fp32 first."""
    host: Host
    git_commit: str | None

    def table(self) -> str:
        """Return a Markdown table; ratios are relative to the plain Trainer in fp32."""
        baseline = self.results[0].rows_per_s(self.settings)
        lines = [
            "| | device | precision | rows/s | ratio | slowest–fastest run, s | validation loss |",
            "|---|---|---|---|---|---|---|",
        ]
        for result in self.results:
            rows_per_s, seconds = result.rows_per_s(self.settings), [run.train_seconds for run in result.runs]
            lines.append(
                f"| {result.name} | {result.runs[-1].device} | {'bf16' if result.bf16 else 'fp32'} | {rows_per_s:.1f} "
                f"| {rows_per_s / baseline:.2f} | {max(seconds):.1f}–{min(seconds):.1f} "
                f"| {result.runs[-1].loss:.4f} |"
            )
        return "\n".join(lines) + "\n"


def compare(settings: TrainingSettings, out: Path, *, rounds: int, bf16: bool) -> TrainingReport:
    """Run both trainers `rounds` times and write the report; `bf16` adds runs in bf16 to those in fp32.

    Raises TuneportError on a device without bf16, for a run that fails, and where devices or validation losses differ.
    """
    host = Host.here()
    if bf16 and not has_bf16(host):
        name = host.gpus[0].name if uses_gpu(host) else host.cpu
        raise TuneportError(f"{name} has no bf16 instructions", "leave out --bf16")
    cases = [(name, in_bf16) for in_bf16 in ((False, True) if bf16 else (False,)) for name in (PLAIN, TUNEPORT)]
    runs: dict[tuple[str, bool], list[TrainingRun]] = {case: [] for case in cases}
    for _ in range(rounds):
        for name, in_bf16 in cases:
            runs[name, in_bf16].append(_run_once(name, settings, in_bf16, out))
    results = tuple(TrainerResult(name=name, bf16=in_bf16, runs=tuple(runs[name, in_bf16])) for name, in_bf16 in cases)
    _check_comparable(results)
    report = TrainingReport(settings=settings, results=results, host=host, git_commit=git_commit(Path(__file__).parent))
    (out / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / TABLE).write_text(report.table(), encoding="utf-8")
    return report


def uses_gpu(host: Host) -> bool:
    """Tell whether the trainers find a GPU: there is one, and torch is built for it."""
    return bool(host.gpus) and torch.cuda.is_available()


def has_bf16(host: Host) -> bool:
    """Tell whether the device that the trainers use has bfloat16 instructions."""
    return host.gpus[0].has(AMPERE) if uses_gpu(host) else host.has_bf16


def _run_once(name: str, settings: TrainingSettings, bf16: bool, out: Path) -> TrainingRun:
    """Train once, in a temporary folder beside the report."""
    run = _run_plain if name == PLAIN else _run_tuneport
    with tempfile.TemporaryDirectory(prefix="run-", dir=out) as folder:
        return run(settings, bf16, Path(folder) / "run")


def _run_plain(settings: TrainingSettings, bf16: bool, out: Path) -> TrainingRun:
    arguments = [settings.model_dump_json(), str(out), *(["--bf16"] if bf16 else [])]
    return TrainingRun.model_validate_json(_run_module(PLAIN_MODULE, arguments).splitlines()[-1])


def _run_tuneport(settings: TrainingSettings, bf16: bool, out: Path) -> TrainingRun:
    values: dict[str, Any] = {
        "max_length": settings.max_length, "max_steps": settings.max_steps, "seed": SEED, "report_to": [],
        "per_device_train_batch_size": settings.per_device_train_batch_size, "learning_rate": LEARNING_RATE,
        "bf16": bf16, "eval_strategy": "no", "save_strategy": "no", "tf32": False,
    }  # fmt: skip
    arguments = ["finetune", "--task", "text-classification", "--model", settings.model, "--data", settings.data]
    for name, value in values.items():
        arguments += ["--set", f"{name}={json.dumps(value)}"]
    _run_module("tuneport", [*arguments, "--out", str(out)])
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return TrainingRun(
        train_seconds=run["train_seconds"],
        loss=run["metrics"]["validation"]["loss"],
        device=run["training"]["device_name"],
    )


def _run_module(module: str, arguments: list[str]) -> str:
    """Run a module and return its standard output; a TuneportError with its last line on stderr if it fails."""
    command = [sys.executable, "-P", "-m", module, *arguments]  # -P: no module of the working directory is imported
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(Host.here()))
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TuneportError(f"{module} failed: {reason}", "correct the model, the data or the settings")
    return done.stdout


def _environment(host: Host) -> dict[str, str]:
    """Show a run one GPU: over several ones in one process Trainer would spread each batch."""
    uuid = host.gpus[0].uuid if uses_gpu(host) else None
    return {**os.environ, **({VISIBLE: uuid} if uuid else {})}


def _check_comparable(results: tuple[TrainerResult, ...]) -> None:
    """Raise a TuneportError if runs used different devices, or the trainers end with different validation losses."""
    if len(devices := sorted({run.device for result in results for run in result.runs})) > 1:
        raise TuneportError(f"runs were on {' and on '.join(devices)}", "find out why one does not use the GPU")
    for plain, tuneport in zip(results[::2], results[1::2], strict=True):
        first, second = plain.runs[-1].loss, tuneport.runs[-1].loss
        if abs(first - second) > MAX_LOSS_DIFFERENCE * max(first, second):
            problem = f"the validation losses are {first:.4f} and {second:.4f}"
            raise TuneportError(problem, "find out why: speeds of different trainings are not comparable")


def main() -> None:
    """Compare the trainers and print the table; one line on stderr and exit code 1 if they cannot be compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="folder with train.jsonl and validation.jsonl of text and label")
    parser.add_argument("--model", required=True, help="as for tuneport finetune")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, help="also in bf16; by default on a GPU that has it"
    )
    options = parser.parse_args()
    settings = TrainingSettings(
        data=options.data, model=options.model, max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size, max_length=options.max_length,
    )  # fmt: skip
    with one_line_errors():
        options.out.mkdir(parents=True, exist_ok=True)
        host = Host.here()
        bf16 = uses_gpu(host) and has_bf16(host) if options.bf16 is None else options.bf16
        report = compare(settings, options.out, rounds=options.rounds, bf16=bf16)
    sys.stdout.write(report.table())


if __name__ == "__main__":
    main()
