"""Training throughput of `tuneport finetune` against a plain script over transformers' Trainer.

    python -m benchmarks.training --data DIR --model M --out DIR --max-steps N [--rounds 3] [--bf16]

Both classify the texts of the same files with the same model and settings, each run in a process of its own, by
turns, so that whatever else the machine does meets both. Timed is `Trainer.train()`. Both must reach the same loss on
validation, or nothing is reported. DIR gets training.json and training.md.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from export.files import TuneportError, git_commit
from export.machine import Frozen, Machine
from finetune.embedded import resolve_model

REPORT, TABLE, RUNS = "training.json", "training.md", "runs"
PEERS = ("plain Trainer", "tuneport")
LEARNING_RATE, SEED = 2e-5, 42


class Settings(Frozen):
    """What both sides are given."""

    data: str
    """Folder with train.jsonl and validation.jsonl, `text` and `label` in each row."""
    model: str
    max_steps: int
    per_device_train_batch_size: int
    max_length: int


class Run(Frozen):
    """One run of one side."""

    train_seconds: float
    loss: float
    """On validation, after training."""


class Side(Frozen):
    """All runs of one side in one precision."""

    name: str
    bf16: bool
    runs: tuple[Run, ...]

    def rows_per_second(self, settings: Settings) -> float:
        """Return the median over the runs."""
        rows = settings.max_steps * settings.per_device_train_batch_size
        return rows / statistics.median(run.train_seconds for run in self.runs)


class Report(Frozen):
    """training.json."""

    settings: Settings
    sides: tuple[Side, ...]
    machine: Machine
    git_commit: str | None

    def table(self) -> str:
        """Return it as Markdown; a ratio is to the plain Trainer in fp32."""
        base = self.sides[0].rows_per_second(self.settings)
        lines = [
            "| | precision | rows/s | ratio | slowest–fastest run, s | validation loss |",
            "|---|---|---|---|---|---|",
        ]
        for side in self.sides:
            speed, seconds = side.rows_per_second(self.settings), [run.train_seconds for run in side.runs]
            lines.append(
                f"| {side.name} | {'bf16' if side.bf16 else 'fp32'} | {speed:.1f} | {speed / base:.2f} "
                f"| {max(seconds):.1f}–{min(seconds):.1f} | {side.runs[-1].loss:.4f} |"
            )
        return "\n".join(lines) + "\n"


def compare(settings: Settings, out: Path, *, rounds: int, bf16: bool) -> Report:
    """Run every side `rounds` times by turns and write the report; bf16 runs beside fp32 where the machine has it.

    Raises TuneportError for a machine without bf16, and where the two sides reach different losses.
    """
    machine = Machine.here()
    if bf16 and not machine.has_bf16:
        raise TuneportError(f"{machine.cpu} does not multiply bf16", "leave out --bf16")
    contenders = [(name, precise) for precise in ((False, True) if bf16 else (False,)) for name in PEERS]
    runs: dict[tuple[str, bool], list[Run]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for name, in_bf16 in contenders:
            shutil.rmtree(out / RUNS, ignore_errors=True)
            runs[name, in_bf16].append(
                (_run_plain if name == PEERS[0] else _run_tuneport)(settings, in_bf16, out / RUNS)
            )
    shutil.rmtree(out / RUNS, ignore_errors=True)
    sides = tuple(Side(name=name, bf16=precise, runs=tuple(runs[name, precise])) for name, precise in contenders)
    _check_alike(sides)
    report = Report(settings=settings, sides=sides, machine=machine, git_commit=git_commit(Path(__file__).parent))
    (out / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / TABLE).write_text(report.table(), encoding="utf-8")
    return report


def _check_alike(sides: tuple[Side, ...]) -> None:
    """Refuse to compare the speed of trainings that are not the same."""
    for plain, ours in zip(sides[::2], sides[1::2], strict=True):
        first, second = plain.runs[-1].loss, ours.runs[-1].loss
        if abs(first - second) > 0.02 * max(first, second):
            raise TuneportError(f"the losses are {first:.4f} and {second:.4f}", "the two did not train alike; see why")


def _run_plain(settings: Settings, bf16: bool, out: Path) -> Run:
    command = ["-m", "benchmarks.training", "--plain", settings.model_dump_json(), "--out", str(out)]
    return Run.model_validate_json(_python([*command, *(["--bf16"] if bf16 else [])]).splitlines()[-1])


def _run_tuneport(settings: Settings, bf16: bool, out: Path) -> Run:
    values = {
        "max_length": settings.max_length, "max_steps": settings.max_steps, "seed": SEED, "report_to": [],
        "per_device_train_batch_size": settings.per_device_train_batch_size, "learning_rate": LEARNING_RATE,
        "bf16": bf16, "eval_strategy": "no", "save_strategy": "no",
    }  # fmt: skip
    command = ["-m", "tuneport.cli", "finetune", "--task", "text-classification", "--model", settings.model]
    command += ["--data", settings.data, "--out", str(out)]
    _python([*command, *(part for name, value in values.items() for part in ("--set", f"{name}={json.dumps(value)}"))])
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return Run(train_seconds=run["train_seconds"], loss=run["metrics"]["validation"]["loss"])


def _python(arguments: list[str]) -> str:
    """Run Python, and return what it prints; its own last line where it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise TuneportError(
            f"{' '.join(arguments[:3])} failed: {said[-1]}", "correct the model, the data or the settings"
        )
    return done.stdout


def train_plain(settings: Settings, out: Path, *, bf16: bool) -> Run:
    """Do what a script after transformers' documentation does."""
    import datasets
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    files = {name: str(Path(settings.data) / f"{name}.jsonl") for name in ("train", "validation")}
    rows = datasets.load_dataset("json", data_files=files)
    labels = sorted(set(rows["train"]["label"]))
    model_folder = resolve_model(settings.model)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(batch["text"], truncation=True, max_length=settings.max_length)
        return {**encoded, "labels": [labels.index(label) for label in batch["label"]]}

    features = rows.map(encode, batched=True, remove_columns=rows["train"].column_names)
    transformers.set_seed(SEED)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder, num_labels=len(labels), ignore_mismatched_sizes=True
    )
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(out), max_steps=settings.max_steps, learning_rate=LEARNING_RATE, warmup_ratio=0.1,
            weight_decay=0.01, per_device_train_batch_size=settings.per_device_train_batch_size, bf16=bf16,
            per_device_eval_batch_size=32, group_by_length=True, seed=SEED, save_strategy="no", report_to="none",
            logging_steps=10, disable_tqdm=True, dataloader_pin_memory=False,
        ),
        train_dataset=features["train"],
        eval_dataset=features["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    return Run(train_seconds=seconds, loss=trainer.evaluate()["eval_loss"])


def main() -> None:
    """Compare, and print the table; one line on stderr and exit code 1 where that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", help="folder with train.jsonl and validation.jsonl of text and label")
    parser.add_argument("--model", help="as for tuneport finetune")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="both precisions, on a processor that has bf16")
    parser.add_argument("--plain", help=argparse.SUPPRESS)  # one run of the plain script, settings as JSON
    given = parser.parse_args()
    if given.plain:
        run = train_plain(Settings.model_validate_json(given.plain), given.out, bf16=given.bf16)
        sys.stdout.write(run.model_dump_json() + "\n")
        return
    if not given.data or not given.model:
        parser.error("--data and --model are required")
    try:
        settings = Settings(
            data=given.data, model=given.model, max_steps=given.max_steps,
            per_device_train_batch_size=given.batch_size, max_length=given.max_length,
        )  # fmt: skip
        given.out.mkdir(parents=True, exist_ok=True)
        report = compare(settings, given.out, rounds=given.rounds, bf16=given.bf16)
    except TuneportError as error:
        sys.exit(str(error))
    sys.stdout.write(report.table())


if __name__ == "__main__":
    main()
