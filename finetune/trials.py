"""The trials of a search: each one is trained from the start, with all that its settings say."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

from export.files import TuneportError
from finetune.config import FinetuneConfig
from finetune.divergence import StopsWhenDiverged, check_weights
from finetune.session import Prepared, load_model, make_trainer
from finetune.space import Range
from finetune.trainer import TuneportTrainer


def run_trials(trainer: TuneportTrainer, space: dict[str, Range], count: int, metric: str, **study: Any) -> None:
    """Run `count` trials, judged by `metric`; `study` says which study they belong to."""
    trainer.hyperparameter_search(
        hp_space=lambda trial: {name: each.suggest(trial, name) for name, each in space.items()},
        compute_objective=lambda metrics: _objective(metrics, metric),
        n_trials=count,
        backend="optuna",
        **study,
    )


def trial_trainer(prepared: Prepared, out: Path, model: Any, varied: set[str]) -> TuneportTrainer:
    """Make the Trainer of all trials, which differ in the settings `varied`; `model` shows it the base model."""

    def begin(trial: optuna.Trial | None) -> Any:
        """Load the model of a trial; what the Trainer would only read from the first settings is set here."""
        if trial is None:
            return load_model(prepared)
        config = prepared.config.model_copy(update=trial.params)
        task = copy.copy(prepared.task)
        task.config = config  # type: ignore[attr-defined]
        trainer.compute_loss_func = task.loss()
        smoothing = config.label_smoothing_factor
        trainer.label_smoother = LabelSmoother(epsilon=smoothing) if smoothing else None
        return load_model(replace(prepared, config=config))

    trainer = make_trainer(prepared, out, model, model_init=begin)
    trainer.remove_callback(StopsWhenDiverged)
    trainer.add_callback(EndsTrialWhenDiverged)
    for name in varied:  # the Trainer casts a trial's value to the type that it finds, and 0.9 epochs to none
        if FinetuneConfig.model_fields[name].annotation is float:
            setattr(trainer.args, name, float(getattr(trainer.args, name)))
    return trainer


class EndsTrialWhenDiverged(StopsWhenDiverged):
    """Lets the search go on with its next trial."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Prune the trial if a weight is no number."""
        try:
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step >= state.max_steps:
                check_weights(kwargs["model"], "in its last step")
        except TuneportError as error:
            raise optuna.TrialPruned(str(error)) from error


def _objective(metrics: dict[str, float], metric: str) -> float:
    value = metrics[f"eval_{metric}"]
    if not math.isfinite(value) or not math.isfinite(metrics["eval_loss"]):
        raise optuna.TrialPruned(f"{metric} is {value}, the loss {metrics['eval_loss']}")
    return value
