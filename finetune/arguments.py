"""Builds the Trainer's arguments from the settings, the task and the machine."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from tuneport.errors import TuneportError

from .config import FinetuneConfig
from .device import Device, choose_precision, count_workers
from .resume import TRAINER
from .tasks.base import FinetuneTask

LOGS = "logs"
TRAINER_SETTINGS = {
    "num_train_epochs", "max_steps", "learning_rate", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "weight_decay", "max_grad_norm", "warmup_ratio",
    "lr_scheduler_type", "group_by_length", "seed", "eval_strategy", "eval_steps", "save_strategy", "save_steps",
    "logging_steps", "torch_compile",
}  # fmt: skip
"""Settings that TrainingArguments has under the same names."""


def training_arguments(config: FinetuneConfig, task: FinetuneTask, out: Path) -> TrainingArguments:
    """Return the Trainer's arguments; raises TuneportError for settings that it refuses, here or on this machine."""
    device = Device.here()
    precision, is_cuda = choose_precision(config, device), device.kind == "cuda"
    metric = task.best_metric()
    options: dict[str, Any] = {}
    if task.generates:
        options = {"predict_with_generate": True, "generation_max_length": config.max_target_length}
        options |= {"generation_num_beams": config.num_beams}
    # TrainingArguments sets these and never resets them, so the next run of the process would have them.
    os.environ |= {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "no"}
    # Otherwise tokenizers warns of each worker, which is forked after rows were tokenized in parallel.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    arguments_class = Seq2SeqTrainingArguments if task.generates else TrainingArguments
    try:
        arguments = arguments_class(
            output_dir=str(out / TRAINER),
            logging_dir=str(out / LOGS),
            run_name=out.name,
            bf16=precision.name == "bf16",
            fp16=precision.name == "fp16",
            tf32=precision.tf32 if device.has_tf32 else None,
            use_cpu=not is_cuda,
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
            dataloader_pin_memory=is_cuda,
            dataloader_num_workers=count_workers(config, device.kind),
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
    # With several GPUs and one process it would choose DataParallel, which splits batches and their losses.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
