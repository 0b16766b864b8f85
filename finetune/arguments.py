"""Builds the Trainer's arguments from the settings, the task and the machine."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from tuneport.errors import TuneportError
from tuneport.host import Host

from .config import FinetuneConfig
from .resume import TRAINER
from .tasks.base import FinetuneTask

LOGS = "logs"
TRAINER_SETTINGS = {
    "num_train_epochs", "max_steps", "learning_rate", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "weight_decay", "max_grad_norm", "warmup_ratio",
    "lr_scheduler_type", "group_by_length", "fp16", "seed", "eval_strategy", "eval_steps",
    "save_strategy", "save_steps", "logging_steps",
}  # fmt: skip
"""Settings that TrainingArguments has under the same names."""


def training_arguments(config: FinetuneConfig, task: FinetuneTask, out: Path) -> TrainingArguments:
    """Return the Trainer's arguments; raises TuneportError for settings that it refuses, here or on this machine."""
    metric = task.best_metric()
    options: dict[str, Any] = {}
    if task.generates:
        options = {"predict_with_generate": True, "generation_max_length": config.max_target_length}
        options |= {"generation_num_beams": config.num_beams}
    # TrainingArguments sets it for lower precision and never resets it, so the next run of the process would have it.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    arguments_class = Seq2SeqTrainingArguments if task.generates else TrainingArguments
    try:
        arguments = arguments_class(
            output_dir=str(out / TRAINER),
            logging_dir=str(out / LOGS),
            run_name=out.name,
            bf16=_uses_bf16(config),
            use_cpu=not torch.cuda.is_available(),
            load_best_model_at_end=config.restores_best,
            metric_for_best_model=metric.name,
            greater_is_better=not metric.lower_is_better,
            save_total_limit=1,
            restore_callback_states_from_checkpoint=True,  # early stopping goes on counting when a run is resumed
            report_to=list(config.report_to),
            length_column_name="length",
            remove_unused_columns=True,
            label_names=list(task.target_columns),
            disable_tqdm=not sys.stderr.isatty(),
            # Reentrant checkpointing loses the gradients where the embeddings are frozen.
            gradient_checkpointing_kwargs={"use_reentrant": False},
            dataloader_pin_memory=torch.cuda.is_available(),
            # Gradual unfreezing leaves parameters without gradients, which distributed training must expect.
            ddp_find_unused_parameters=config.strategy == "gradual",
            **config.model_dump(include=TRAINER_SETTINGS),
            **options,
        )
    except (ValueError, ImportError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:250]
        raise TuneportError(f"the Trainer refuses these settings ({reason})", "change them") from error
    if arguments.device.type == "cpu":
        # In several processes it is called cpu:0, onto which torch cannot load the optimizer's state of a checkpoint.
        arguments._setup_devices = torch.device("cpu")
    return arguments


def _uses_bf16(config: FinetuneConfig) -> bool:
    if config.bf16 is not None:
        return config.bf16
    is_supported = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else Host.here().has_bf16
    return is_supported and not config.fp16
