"""Fine-tuning, top to bottom: settings → data → model → Trainer → metrics → a run folder.

runs/x/settings.json    the resolved settings; a folder with them but without run.json is unfinished
runs/x/trainer/         checkpoints to resume from; gone when the run is finished
runs/x/checkpoint/      the model and its tokenizer, as transformers saves them
runs/x/evaluation.json  per class, confusion matrix, worst mistakes of each split
runs/x/report.html      all of it on a page; curves.png, confusion.png; logs/ for TensorBoard
runs/x/run.json         what was done and what came of it; written last
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from export.files import TuneportError, check_out, full_disk_is_an_error, git_commit
from export.manifest import CHECKPOINT, RUN, Machine, Run
from finetune.config import FinetuneConfig
from finetune.data import Data, duplicates_across_splits, read_data
from finetune.embedded import resolve_model
from finetune.evaluate import Evaluation
from finetune.more_data import with_more_rows
from finetune.report import write_report
from finetune.strategies import AdaLoraBudget, GradualUnfreezing, apply_strategy, finish_strategy
from finetune.tasks import Task, task_class
from finetune.trainer import TuneportSeq2SeqTrainer, TuneportTrainer

SETTINGS, TRAINER, EVALUATION = "settings.json", "trainer", "evaluation.json"
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "peft")
PASSED_ON = {
    "num_train_epochs", "max_steps", "learning_rate", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "weight_decay", "max_grad_norm", "warmup_ratio",
    "lr_scheduler_type", "label_smoothing_factor", "group_by_length", "fp16", "seed", "eval_strategy", "eval_steps",
    "save_strategy", "save_steps", "logging_steps",
}  # fmt: skip
"""Settings that go to TrainingArguments unchanged."""


@dataclass
class Prepared:
    """Everything that training needs, checked and loaded."""

    config: FinetuneConfig
    task: Task
    data: Data
    source: str
    processor: Any
    features: dict[str, Dataset]
    """The splits as the model takes them."""
    warnings: tuple[str, ...] = ()
    """What is odd about the data, though not wrong."""


def finetune(config: FinetuneConfig, out: Path, *, overwrite: bool = False, resume: bool = False) -> Run:
    """Fine-tune a model and write the run folder; bad data or settings are found before any training.

    `resume` goes on with an unfinished run of the same settings and data, to the same result as if it had not
    been interrupted. Raises TuneportError for data, settings or a model that cannot be used. The same seed, data
    and machine give the same metrics.
    """
    state = PartialState()
    checkpoint = _check_unfinished(config, out) if resume else None
    if not resume and state.is_main_process:
        check_out(out, marker=SETTINGS, overwrite=overwrite)
    transformers.set_seed(config.seed)
    prepared = prepare(config)
    state.wait_for_everyone()
    if state.is_main_process and not resume:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        _write_json(out / SETTINGS, _identity(prepared))
    state.wait_for_everyone()
    if resume and json.loads((out / SETTINGS).read_text()) != _identity(prepared):
        raise TuneportError(f"{out} was begun with other settings or data", "pass the same ones, or --overwrite")

    with full_disk_is_an_error(out):
        trainer = make_trainer(prepared, out)
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=checkpoint)
        train_seconds = time.perf_counter() - started
        trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
        trainer.model = finish_strategy(trainer.accelerator.unwrap_model(trainer.model))
        trainer.model_wrapped = trainer.model
        evaluations = {name: evaluate(trainer, prepared, name) for name in prepared.features if name != "train"}
        trainer.save_model(str(out / CHECKPOINT))
        run = _record(prepared, trainer, evaluations, train_seconds, trained)
        if state.is_main_process:
            _finish(out, run, evaluations, trainer.state.log_history)
        state.wait_for_everyone()
    return run


def prepare(config: FinetuneConfig) -> Prepared:
    """Read and check the data, then load the tokenizer and encode."""
    kind = task_class(config.task)
    with PartialState().local_main_process_first():  # the others find what it has cached
        data = read_data(
            config.data, columns=config.columns, required=kind.required, optional=kind.optional, seed=config.seed
        )
        task = kind(data, config)
        warnings = duplicates_across_splits(data)
        data = with_more_rows(data, config)
        source = resolve_model(config.model)
        processor = task.load_processor(source)
        features = {name: task.encode(rows, processor, train=name == "train") for name, rows in data.splits.items()}
    return Prepared(config, task, data, source, processor, features, tuple(warnings))


def make_trainer(prepared: Prepared, out: Path, model_init: Callable[[Any], Any] | None = None) -> TuneportTrainer:
    """Put model, data and settings into a Trainer; a search passes `model_init` to start each trial anew."""
    config, task = prepared.config, prepared.task
    model = None if model_init else load_model(prepared)
    kind = TuneportSeq2SeqTrainer if task.generates else TuneportTrainer
    trainer = kind(
        settings=config,
        model=model,
        model_init=model_init,
        args=_arguments(config, task, out),
        train_dataset=prepared.features["train"],
        eval_dataset=prepared.features["validation"],
        processing_class=prepared.processor,
        data_collator=task.collator(prepared.processor, model or load_model(prepared)),
        compute_metrics=lambda outputs: _score(prepared, "validation", outputs.predictions, outputs.label_ids).metrics,
        compute_loss_func=task.loss(),
        callbacks=_callbacks(config),
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    if not sys.stderr.isatty():
        trainer.remove_callback(ProgressCallback)
    return trainer


def load_model(prepared: Prepared) -> Any:
    """Load the base model with the task's head, frozen or wrapped as the strategy says."""
    transformers.set_seed(prepared.config.seed)  # the new head's weights
    return apply_strategy(prepared.task.load_model(prepared.source), prepared.config)


def evaluate(trainer: TuneportTrainer, prepared: Prepared, split: str) -> Evaluation:
    """Evaluate the model on a split: the task's metrics and the loss."""
    trainer.compute_metrics = None  # it scores the validation split; here the outputs are scored below
    done = trainer.predict(prepared.features[split], metric_key_prefix="on")
    scored = _score(prepared, split, done.predictions, done.label_ids)
    return scored.model_copy(update={"metrics": {**scored.metrics, "loss": float(done.metrics["on_loss"])}})


def _score(prepared: Prepared, split: str, outputs: Any, targets: Any) -> Evaluation:
    # Some models return hidden states behind their logits; question answering has two outputs that both count.
    if isinstance(outputs, tuple) and not isinstance(targets, tuple):
        outputs = outputs[0]
    return prepared.task.evaluate(outputs, targets, prepared.data.splits[split], prepared.features[split])


def _arguments(config: FinetuneConfig, task: Task, out: Path) -> TrainingArguments:
    bf16 = config.bf16
    if bf16 is None:
        has = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else Machine.here().has_bf16
        bf16 = has and not config.fp16
    metric = config.metric_for_best_model or task.best_metric
    options: dict[str, Any] = {}
    if task.generates:
        options = {"predict_with_generate": True, "generation_max_length": config.max_target_length}
        options |= {"generation_num_beams": config.num_beams}
    kind = Seq2SeqTrainingArguments if task.generates else TrainingArguments
    return kind(
        output_dir=str(out / TRAINER),
        logging_dir=str(out / "logs"),
        run_name=out.name,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        load_best_model_at_end=config.restores_best,
        metric_for_best_model=metric,
        greater_is_better=False if metric == "loss" else task.greater_is_better,
        save_total_limit=1,
        report_to=list(config.report_to),
        length_column_name="length",
        remove_unused_columns=True,
        label_names=["start_positions", "end_positions"] if config.task == "question-answering" else ["labels"],
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=torch.cuda.is_available(),
        # Gradual unfreezing leaves parameters without gradients, which several processes must expect.
        ddp_find_unused_parameters=config.strategy == "gradual",
        **config.model_dump(include=PASSED_ON),
        **options,
    )


def _callbacks(config: FinetuneConfig) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = []
    if config.strategy == "gradual":
        callbacks.append(GradualUnfreezing())
    if config.strategy == "adalora":
        callbacks.append(AdaLoraBudget())
    if config.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    return callbacks


def _check_unfinished(config: FinetuneConfig, out: Path) -> str | None:
    """Return the last checkpoint of an unfinished run; None if it was interrupted before its first."""
    if (out / RUN).is_file():
        raise TuneportError(f"{out} is finished", "give a run that was interrupted, or pass --overwrite")
    if not (out / SETTINGS).is_file():
        raise TuneportError(f"{out} holds no unfinished run", "leave out --resume to begin one")
    return get_last_checkpoint(str(out / TRAINER)) if (out / TRAINER).is_dir() else None


def _identity(prepared: Prepared) -> dict[str, Any]:
    """Say what a resumed run must have in common with the one that was interrupted."""
    fingerprint = prepared.data.source.fingerprint
    return {"config": prepared.config.model_dump(mode="json"), "data": fingerprint}


def _record(
    prepared: Prepared,
    trainer: TuneportTrainer,
    evaluations: dict[str, Evaluation],
    train_seconds: float,
    trained_parameters: int,
) -> Run:
    config = prepared.config
    return Run(
        task=config.task,
        labels=prepared.task.labels,
        accepts_pairs="text_pair" in prepared.data.splits["train"].column_names,
        config=config.model_dump(mode="json"),
        seed=config.seed,
        data=prepared.data.source,
        metrics={name: evaluation.metrics for name, evaluation in evaluations.items()},
        train_rows=len(prepared.data.splits["train"]),
        trained_parameters=trained_parameters,
        train_seconds=round(train_seconds, 2),
        bf16=bool(trainer.args.bf16),
        warnings=prepared.warnings,
        machine=Machine.here(),
        git_commit=git_commit(Path(__file__).parent),
        versions={name: version(name) for name in LIBRARIES},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _finish(out: Path, run: Run, evaluations: dict[str, Evaluation], history: list[dict[str, Any]]) -> None:
    """Write what the main process writes once; run.json appears whole and last."""
    (out / CHECKPOINT / "training_args.bin").unlink(missing_ok=True)  # a pickle; run.json says it in the open
    _write_json(out / EVALUATION, {name: each.model_dump(mode="json") for name, each in evaluations.items()})
    write_report(out, run, evaluations, history)
    shutil.rmtree(out / TRAINER, ignore_errors=True)
    _write_json(out / f".{RUN}", run.model_dump(mode="json"))
    (out / f".{RUN}").rename(out / RUN)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
