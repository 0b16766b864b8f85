"""The Trainer's arguments, from the settings, the task and the machine."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from export.files import TuneportError
from export.machine import Machine
from finetune.config import FinetuneConfig
from finetune.metrics import greater_is_better, metric_of
from finetune.tasks import Task
from finetune.unfinished import TRAINER

LOGS = "logs"
PASSED_ON = {
    "num_train_epochs", "max_steps", "learning_rate", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "weight_decay", "max_grad_norm", "warmup_ratio",
    "lr_scheduler_type", "label_smoothing_factor", "group_by_length", "fp16", "seed", "eval_strategy", "eval_steps",
    "save_strategy", "save_steps", "logging_steps",
}  # fmt: skip
"""Settings that go to TrainingArguments unchanged."""


def arguments(config: FinetuneConfig, task: Task, out: Path) -> TrainingArguments:
    """Return the Trainer's arguments; a TuneportError for settings that do not go together, or not on this machine."""
    bf16 = config.bf16
    if bf16 is None:
        has = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else Machine.here().has_bf16
        bf16 = has and not config.fp16
    metric = metric_of(config, task)
    options: dict[str, Any] = {}
    if task.generates:
        options = {"predict_with_generate": True, "generation_max_length": config.max_target_length}
        options |= {"generation_num_beams": config.num_beams}
    # TrainingArguments sets it for lower precision and never takes it back: the next run of this process would get it.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    kind = Seq2SeqTrainingArguments if task.generates else TrainingArguments
    try:
        return kind(
            output_dir=str(out / TRAINER),
            logging_dir=str(out / LOGS),
            run_name=out.name,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            load_best_model_at_end=config.restores_best,
            metric_for_best_model=metric,
            greater_is_better=greater_is_better(metric),
            save_total_limit=1,
            report_to=list(config.report_to),
            length_column_name="length",
            remove_unused_columns=True,
            label_names=["start_positions", "end_positions"] if config.task == "question-answering" else ["labels"],
            disable_tqdm=not sys.stderr.isatty(),
            # The other way of recomputing loses the gradients where the embeddings are frozen.
            gradient_checkpointing_kwargs={"use_reentrant": False},
            dataloader_pin_memory=torch.cuda.is_available(),
            # Gradual unfreezing leaves parameters without gradients, which several processes must expect.
            ddp_find_unused_parameters=config.strategy == "gradual",
            **config.model_dump(include=PASSED_ON),
            **options,
        )
    except (ValueError, ImportError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:250]
        raise TuneportError(f"the Trainer refuses these settings ({reason})", "change them") from error
