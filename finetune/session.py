"""A training session: the checked data, the loaded model, the Trainer over both, and evaluation."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import transformers
from accelerate import PartialState
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)

from export.files import CheckpointError, TuneportError
from finetune import bottleneck
from finetune.arguments import arguments
from finetune.config import FinetuneConfig
from finetune.data import Data, place_of, read_data
from finetune.divergence import StopsWhenDiverged, check_metrics
from finetune.embedded import MODEL, resolve_model
from finetune.evaluate import Evaluation
from finetune.metrics import metric_of
from finetune.more_data import with_more_rows, with_rehearsal
from finetune.oddities import cut_rows, odd_labels, oddities
from finetune.optional import check_installed, packages_of
from finetune.strategies import AdaLoraBudget, GradualUnfreezing, apply_strategy
from finetune.tasks import Reduces, Task, first_output, task_class
from finetune.trainer import TuneportSeq2SeqTrainer, TuneportTrainer


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


def prepare(config: FinetuneConfig) -> Prepared:
    """Read and check the data, then load the tokenizer and encode."""
    check_installed(packages_of(config))
    _check_adversary(config)
    source = resolve_model(config.model)
    kind = task_class(config.task)
    with PartialState().local_main_process_first():  # the others find what it has cached
        data = read_data(
            config.data, columns=config.columns, required=kind.required, optional=kind.optional, seed=config.seed
        )
        warnings = oddities(data)
        data = with_rehearsal(data, config)
        task = kind(data, config)
        metric_of(config, task)
        warnings += odd_labels(task, data.files["train"])
        data = with_more_rows(data, config)
        processor = _load_processor(task, source)
        features = {name: task.encode(rows, processor, train=name == "train") for name, rows in data.splits.items()}
        warnings += cut_rows(data, features)
    return Prepared(config, task, data, source, processor, features, tuple(warnings))


def _load_processor(task: Task, source: str) -> Any:
    """Load the tokenizer; a name that is neither here nor on the hub is told apart from a model that does not fit."""
    try:
        return task.load_processor(source)
    except CheckpointError as error:
        is_path = source.startswith((".", "/", "~")) or source.count("/") > 1
        unknown = "connect" in error.problem or "not a valid model identifier" in error.problem
        if Path(source).exists() or not (is_path or unknown):
            raise
        problem = f"there is no folder {source}{'' if is_path else ', and no hub model of that name in reach'}"
        raise CheckpointError(problem, f"correct the path, or give a hub name or {MODEL}") from error


def _check_adversary(config: FinetuneConfig) -> None:
    """Refuse FGM where the embeddings that it moves are frozen."""
    if config.adversarial_epsilon and config.strategy not in ("full", "last_layers"):
        problem = f"adversarial_epsilon moves embeddings, and strategy = {config.strategy} freezes them"
        raise TuneportError(problem, "use strategy = full")


def make_trainer(
    prepared: Prepared, out: Path, model: Any, model_init: Callable[[Any], Any] | None = None
) -> TuneportTrainer:
    """Put model, data and settings into a Trainer; a search passes `model_init` to begin each trial anew."""
    config, task = prepared.config, prepared.task
    kind = TuneportSeq2SeqTrainer if task.generates else TuneportTrainer
    trainer = kind(
        settings=config,
        model=None if model_init else model,
        model_init=model_init,
        args=arguments(config, task, out),
        train_dataset=prepared.features["train"],
        eval_dataset=prepared.features["validation"],
        processing_class=prepared.processor,
        data_collator=task.collator(prepared.processor, model),
        compute_metrics=lambda outputs: score(prepared, "validation", outputs.predictions, outputs.label_ids).metrics,
        compute_loss_func=task.loss(),
        preprocess_logits_for_metrics=task.reduce if isinstance(task, Reduces) else first_output,
        callbacks=_callbacks(config),
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    if not sys.stderr.isatty():
        trainer.remove_callback(ProgressCallback)
    return trainer


def load_model(prepared: Prepared) -> Any:
    """Load the base model with the task's head, frozen or wrapped as the strategy says."""
    transformers.set_seed(prepared.config.seed)  # the new head's weights
    config = prepared.config
    model: Any = apply_strategy(prepared.task.load_model(prepared.source), config)
    if config.adversarial_epsilon and not model.get_input_embeddings().weight.requires_grad:
        raise TuneportError("adversarial_epsilon moves embeddings, and they are frozen", "use strategy = full")
    return model


def load_trained(prepared: Prepared, checkpoint: Path) -> Any:
    """Load what a finished run has made, with the prefix or adapter that is beside the weights where there is one."""
    if (checkpoint / "adapter_config.json").is_file():
        base = prepared.task.load_model(prepared.source)
        return peft.PeftModel.from_pretrained(base, str(checkpoint))
    return bottleneck.load_adapter(prepared.task.load_model(str(checkpoint)), checkpoint)


def save_trained(trainer: TuneportTrainer, checkpoint: Path) -> None:
    """Write the model and what turns data into its inputs; an adapter is apart from the model afterwards."""
    if not bottleneck.has_adapter(trainer.model):
        trainer.save_model(str(checkpoint))
    elif trainer.args.should_save:
        bottleneck.save_model(trainer.model, checkpoint)
        trainer.processing_class.save_pretrained(checkpoint)


def evaluate(trainer: TuneportTrainer, prepared: Prepared, split: str) -> Evaluation:
    """Evaluate the model on a split: the task's metrics and the loss."""
    outputs, targets, loss = outputs_of(trainer, prepared.features[split])
    check_metrics({"loss": loss}, split)
    scored, rows = score(prepared, split, outputs, targets), prepared.data.splits[split]
    mistakes = [each.model_copy(update={"row": place_of(rows, each.row - 1)}) for each in scored.mistakes]
    metrics = {**scored.metrics, "loss": loss}
    check_metrics(metrics, split)
    return scored.model_copy(update={"metrics": metrics, "mistakes": tuple(mistakes)})


def outputs_of(trainer: TuneportTrainer, features: Dataset) -> tuple[Any, Any, float]:
    """Run the model over encoded rows: outputs and targets in their order, and the loss."""
    trainer.compute_metrics = None  # it scores the validation split only
    done = trainer.predict(features, metric_key_prefix="on")
    return done.predictions, done.label_ids, float(done.metrics["on_loss"])


def score(prepared: Prepared, split: str, outputs: Any, targets: Any) -> Evaluation:
    """Score the outputs on a split."""
    return prepared.task.evaluate(outputs, targets, prepared.data.splits[split], prepared.features[split])


def _callbacks(config: FinetuneConfig) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [StopsWhenDiverged()]
    if config.strategy == "gradual":
        callbacks.append(GradualUnfreezing())
    if config.strategy == "adalora":
        callbacks.append(AdaLoraBudget())
    if config.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    return callbacks
