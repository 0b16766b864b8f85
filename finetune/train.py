"""Fine-tuning, top to bottom: settings → data → model → Trainer → metrics → a run folder.

runs/x/checkpoint/   the model and its tokenizer, as transformers saves them
runs/x/run.json      what was done and what came of it; written last, so a run without it is unfinished
"""

import json
import os
import shutil
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)

from export.files import CheckpointError, check_out, full_disk_is_an_error, git_commit
from export.manifest import CHECKPOINT, RUN, Machine, Run
from finetune.config import FinetuneConfig
from finetune.data import read_data
from finetune.embedded import resolve_model
from finetune.tasks import Task, task_class

TRAINER = "trainer"
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers")
PASSED_ON = {
    "num_train_epochs", "max_steps", "learning_rate", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "weight_decay", "max_grad_norm", "warmup_ratio", "lr_scheduler_type",
    "label_smoothing_factor", "group_by_length", "seed",
}  # fmt: skip
"""Settings that go to TrainingArguments unchanged."""


def finetune(config: FinetuneConfig, out: Path, *, overwrite: bool = False) -> Run:
    """Fine-tune a model and write the run folder; bad data or settings are found before any training.

    Raises TuneportError for data, settings or a model that cannot be used. The same seed, data and machine
    give the same metrics.
    """
    check_out(out, marker=RUN, overwrite=overwrite)
    transformers.set_seed(config.seed)
    Task = task_class(config.task)
    data = read_data(
        config.data, columns=config.columns, required=Task.required, optional=Task.optional, seed=config.seed
    )
    task = Task(data)
    source = resolve_model(config.model)
    tokenizer = _load(AutoTokenizer.from_pretrained, source, trust_remote_code=config.trust_remote_code)
    model = _load(task.load_model, config, source)
    splits = {name: task.encode(rows, tokenizer, config.max_length) for name, rows in data.splits.items()}

    if out.exists():
        shutil.rmtree(out)
    with full_disk_is_an_error(out):
        trainer = _make_trainer(config, model, tokenizer, task, splits, out / TRAINER)
        started = time.perf_counter()
        trainer.train()
        train_seconds = time.perf_counter() - started
        metrics = {name: _evaluate(trainer, task, splits[name]) for name in splits if name != "train"}
        trainer.save_model(str(out / CHECKPOINT))
        run = Run(
            task=config.task,
            labels=task.labels,
            accepts_pairs="text_pair" in data.splits["train"].column_names,
            config=config.model_dump(mode="json"),
            seed=config.seed,
            data=data.source,
            metrics=metrics,
            train_seconds=round(train_seconds, 2),
            bf16=bool(trainer.args.bf16),
            machine=Machine.here(),
            git_commit=git_commit(Path(__file__).parent),
            versions={name: version(name) for name in LIBRARIES},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        (out / CHECKPOINT / "training_args.bin").unlink(missing_ok=True)  # a pickle; run.json says it in the open
        shutil.rmtree(out / TRAINER, ignore_errors=True)
        (out / f".{RUN}").write_text(json.dumps(run.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")
        (out / f".{RUN}").rename(out / RUN)
    return run


def _make_trainer(
    config: FinetuneConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    splits: dict[str, Dataset],
    folder: Path,
) -> Trainer:
    bf16 = config.bf16
    if bf16 is None:
        bf16 = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else Machine.here().has_bf16
    arguments = TrainingArguments(
        output_dir=str(folder),
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to=[],
        length_column_name="length",
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=torch.cuda.is_available(),
        **config.model_dump(include=PASSED_ON),
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda outputs: task.score(_logits(outputs.predictions), outputs.label_ids),
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    if not sys.stderr.isatty():
        trainer.remove_callback(ProgressCallback)
    return trainer


def _evaluate(trainer: Trainer, task: Task, rows: Dataset) -> dict[str, float]:
    """Score the model on a split: the task's metrics and the loss."""
    done = trainer.predict(rows, metric_key_prefix="on")
    return {**task.score(_logits(done.predictions), done.label_ids), "loss": float(done.metrics["on_loss"])}


def _logits(predictions: Any) -> Any:
    """Some models return hidden states behind their logits."""
    return predictions[0] if isinstance(predictions, tuple) else predictions


def _load(load: Any, *arguments: Any, **options: Any) -> Any:
    """Call a transformers loader; what it cannot load becomes one line."""
    try:
        return load(*arguments, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        source = next(each for each in reversed(arguments) if isinstance(each, str))
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:250]
        remedy = "give a folder or hub name with config.json, model.safetensors and a tokenizer"
        raise CheckpointError(f"{source} cannot be loaded for this task ({reason})", remedy) from error


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
