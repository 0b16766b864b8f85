"""A training script as in transformers' documentation, for the training benchmark.

    python -m tuneport.stages.benchmarks.peers.plain_trainer SETTINGS_JSON OUT [--bf16]

Prints a `TrainingRun` as the last line of standard output.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from tuneport.host import Host
from tuneport.stages.finetune.embedded import resolve_model

from ..training import LEARNING_RATE, SEED, TrainingRun, TrainingSettings


def train_plain(settings: TrainingSettings, out: Path, *, bf16: bool) -> TrainingRun:
    """Train a text classifier with the Trainer's own loop and evaluate it on validation."""
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
            logging_steps=10, disable_tqdm=True, dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=features["train"],
        eval_dataset=features["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else Host.here().cpu
    return TrainingRun(train_seconds=seconds, loss=trainer.evaluate()["eval_loss"], device=device)


def main() -> None:
    """Train once and print the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("settings", help="a `TrainingSettings` as JSON")
    parser.add_argument("out", type=Path, help="the Trainer's output folder")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    settings = TrainingSettings.model_validate_json(options.settings)
    run = train_plain(settings, options.out, bf16=options.bf16)
    sys.stdout.write(run.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
