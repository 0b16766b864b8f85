"""Prepares training: checks and encodes the data, loads the model, builds the Trainer, and evaluates with it."""

import copy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import transformers
from datasets import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback

from tuneport.data.checks import count_truncated, find_leakage, find_suspicious_labels
from tuneport.data.reader import Data, read_data
from tuneport.data.rows import row_number
from tuneport.errors import CheckpointError, TuneportError
from tuneport.modeling.adapters import load_adapter
from tuneport.schema.run import PseudoLabelled
from tuneport.tasks import task_spec

from .arguments import training_arguments
from .checkpoint_hashes import RecordHashes
from .config import FinetuneConfig
from .device import Device, choose_precision, device_warnings
from .divergence import StopOnDivergence, check_metrics
from .embedded import MODEL, resolve_model
from .evaluate import Evaluation
from .extra_rows import add_rehearsal_split, add_train_rows
from .optional_packages import check_installed, required_packages
from .processes import processes
from .strategies import adapters
from .strategies.adalora import AdaLoraBudget
from .strategies.strategies import GradualUnfreezing, apply_strategy
from .tasks.base import FinetuneTask
from .trainer import TuneportSeq2SeqTrainer, TuneportTrainer


@dataclass
class Prepared:
    """The checked and encoded data of a run, with its task and settings."""

    config: FinetuneConfig
    task: FinetuneTask
    data: Data
    source: str
    """The base model: a folder, or a name on the hub."""
    processor: Any
    """The tokenizer, or the feature extractor with its tokenizer."""
    features: dict[str, Dataset]
    """The encoded splits."""
    warnings: tuple[str, ...] = ()
    """Problems of data and device that are no errors."""
    pseudo_labelled: PseudoLabelled | None = None
    """The pseudo-labels in train; None without `pseudo_label_data`."""

    @property
    def has_one_label(self) -> bool:
        """Whether each input has one label, so that the softmax of the logits is the labels' probability."""
        return "label" in self.data.splits["train"].column_names


def prepare(config: FinetuneConfig) -> Prepared:
    """Read and check the data, load the tokenizer and encode; raises TuneportError for what cannot be trained."""
    check_installed(required_packages(config))
    _check_adversarial(config)
    device = Device.here()
    choose_precision(config, device)  # raises for what the device does not have
    source = resolve_model(config.model)
    spec = task_spec(config.task)
    with processes().local_main_process_first():  # the other processes then find the cached rows
        data = read_rows(config)
        warnings = [*data.warnings, *find_leakage(data)]
        data = add_rehearsal_split(data, config)
        task: FinetuneTask = spec.task_class("finetune")(data, config)
        task.best_metric()  # raises for a metric that the task does not have
        warnings += find_suspicious_labels(task.labels, task.label_counts, data.files["train"])
        data = add_train_rows(data, config)
        processor = _load_processor(task, source)
        if not spec.is_generative and processor.truncation_side != "right":
            problem = f"{source} has a tokenizer that truncates on the left, and serving truncates on the right"
            raise CheckpointError(problem, "set truncation_side = right in its tokenizer_config.json")
        features = {name: task.encode(rows, processor, train=name == "train") for name, rows in data.splits.items()}
        warnings += count_truncated(data, features)
    warnings += device_warnings(config, device, processes().num_processes)
    return Prepared(config, task, data, source, processor, features, tuple(warnings))


def read_rows(config: FinetuneConfig) -> Data:
    """Read the data that the settings name, with the columns of the task; raises DataError."""
    spec = task_spec(config.task)
    return read_data(
        config.data,
        columns=config.columns,
        required=spec.columns,
        optional=spec.optional_columns,
        seed=config.seed,
        splits=config.splits,
    )


def with_settings(prepared: Prepared, config: FinetuneConfig) -> Prepared:
    """Change settings that neither the data nor its encoding depends on."""
    task = copy.copy(prepared.task)
    task.config = config
    return replace(prepared, config=config, task=task)


def _load_processor(task: FinetuneTask, source: str) -> Any:
    """Load the tokenizer; the error for a missing model differs from that for one that does not fit the task."""
    remedy = f"correct the path, or give a hub name or {MODEL}"
    if Path(source).is_file():  # the hub would be asked for it, several times
        raise CheckpointError(f"{source} is a file, and a model is a folder", remedy)
    try:
        return task.load_processor(source)
    except CheckpointError as error:
        is_path = source.startswith((".", "/", "~")) or source.count("/") > 1
        is_unknown = "connect" in error.problem or "not a valid model identifier" in error.problem
        if Path(source).exists() or not (is_path or is_unknown):
            raise
        problem = f"there is no folder {source}{'' if is_path else ', and no hub model of that name in reach'}"
        raise CheckpointError(problem, remedy) from error


def _check_adversarial(config: FinetuneConfig) -> None:
    """Refuse FGM where the embeddings that it moves are frozen."""
    if config.adversarial_epsilon and config.strategy not in ("full", "last_layers"):
        problem = f"adversarial_epsilon moves embeddings, and strategy = {config.strategy} freezes them"
        raise TuneportError(problem, "use strategy = full")


def make_trainer(prepared: Prepared, out: Path, model: Any) -> TuneportTrainer:
    """Build the Trainer of a model."""
    config, task = prepared.config, prepared.task
    trainer_class = TuneportSeq2SeqTrainer if task.generates else TuneportTrainer
    trainer = trainer_class(
        task=task,
        model=model,
        args=training_arguments(config, task, out),
        train_dataset=prepared.features["train"],
        eval_dataset=prepared.features["validation"],
        processing_class=prepared.processor,
        data_collator=task.collator(prepared.processor, model),
        compute_metrics=lambda outputs: score(prepared, "validation", outputs.predictions, outputs.label_ids).metrics,
        preprocess_logits_for_metrics=task.reduce_logits,
        callbacks=_callbacks(config),
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    if not sys.stderr.isatty():
        trainer.remove_callback(ProgressCallback)
    return trainer


def load_model(prepared: Prepared) -> Any:
    """Load the base model with the task's head, frozen or wrapped as the strategy says."""
    transformers.set_seed(prepared.config.seed)  # of the new head's weights
    config = prepared.config
    model: Any = apply_strategy(prepared.task.load_model(prepared.source), config)
    if config.adversarial_epsilon and not model.get_input_embeddings().weight.requires_grad:
        raise TuneportError("adversarial_epsilon moves embeddings, and they are frozen", "use strategy = full")
    return model


def load_trained(prepared: Prepared, checkpoint: Path) -> Any:
    """Load the model of a finished run, with its prefix or adapter where it has one."""
    if (checkpoint / "adapter_config.json").is_file():
        base = prepared.task.load_model(prepared.source)
        return peft.PeftModel.from_pretrained(base, str(checkpoint))
    return load_adapter(prepared.task.load_model(str(checkpoint)), checkpoint)


def save_trained(trainer: TuneportTrainer, checkpoint: Path) -> None:
    """Write the model and its processor; an adapter is written apart and removed from the model."""
    if not adapters.has_adapter(trainer.model):
        trainer.save_model(str(checkpoint))
    elif trainer.args.should_save:
        adapters.save_model(trainer.model, checkpoint)
        trainer.processing_class.save_pretrained(checkpoint)


def evaluate(trainer: TuneportTrainer, prepared: Prepared, split: str) -> Evaluation:
    """Evaluate the model on a split: the task's metrics and the loss."""
    outputs, targets, loss = predict(trainer, prepared.features[split])
    check_metrics({"loss": loss}, split)
    evaluation, rows = score(prepared, split, outputs, targets), prepared.data.splits[split]
    mistakes = [
        mistake.model_copy(update={"row": row_number(rows, mistake.row - 1)}) for mistake in evaluation.mistakes
    ]
    metrics = {**evaluation.metrics, "loss": loss}
    check_metrics(metrics, split)
    return evaluation.model_copy(update={"metrics": metrics, "mistakes": tuple(mistakes)})


def predict(trainer: TuneportTrainer, features: Dataset) -> tuple[Any, Any, float]:
    """Run the model over encoded rows: outputs and targets in their order, and the loss."""
    trainer.compute_metrics = None  # it scores the validation split only
    prediction = trainer.predict(features, metric_key_prefix="on")
    return prediction.predictions, prediction.label_ids, float(prediction.metrics["on_loss"])


def score(prepared: Prepared, split: str, outputs: Any, targets: Any) -> Evaluation:
    """Score a model's outputs on a split."""
    return prepared.task.evaluate(outputs, targets, prepared.data.splits[split], prepared.features[split])


def _callbacks(config: FinetuneConfig) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [StopOnDivergence(), RecordHashes()]
    if config.strategy == "gradual":
        callbacks.append(GradualUnfreezing())
    if config.strategy == "adalora":
        callbacks.append(AdaLoraBudget())
    if config.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    return callbacks
