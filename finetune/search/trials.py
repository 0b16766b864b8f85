"""The trials of a search: each loads the base model and trains it with its own settings."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

from tuneport.errors import TuneportError

from ..config import FinetuneConfig
from ..divergence import StopOnDivergence, check_weights
from ..setup import Prepared, load_model, make_trainer
from ..trainer import TuneportTrainer
from .space import Range


def run_trials(trainer: TuneportTrainer, space: dict[str, Range], count: int, metric: str, **study: Any) -> None:
    """Run `count` trials, scored by `metric`; `study` are the arguments of `optuna.create_study`."""
    trainer.hyperparameter_search(
        hp_space=lambda trial: {name: values.suggest(trial, name) for name, values in space.items()},
        compute_objective=lambda metrics: _objective(metrics, metric),
        n_trials=count,
        backend="optuna",
        **study,
    )


def trial_trainer(prepared: Prepared, out: Path, model: Any, varied: set[str]) -> TuneportTrainer:
    """Build the Trainer of all trials, which differ in the settings `varied`; the collator needs the base `model`."""

    def begin_trial(trial: optuna.Trial | None) -> Any:
        """Load the model of a trial, and set what the Trainer reads only once, from the first settings."""
        if trial is None:
            return load_model(prepared)
        config = prepared.config.model_copy(update=trial.params)
        task = copy.copy(prepared.task)
        task.config = config
        trainer.compute_loss_func = task.loss()
        smoothing = config.label_smoothing_factor
        trainer.label_smoother = LabelSmoother(epsilon=smoothing) if smoothing else None
        return load_model(replace(prepared, config=config))

    trainer = make_trainer(prepared, out, model, model_init=begin_trial)
    trainer.remove_callback(StopOnDivergence)
    trainer.add_callback(PruneOnDivergence)
    for name in varied:  # the Trainer casts a trial's value to the type of the present one, 0.9 epochs to 0
        if FinetuneConfig.model_fields[name].annotation is float:
            setattr(trainer.args, name, float(getattr(trainer.args, name)))
    return trainer


class PruneOnDivergence(StopOnDivergence):
    """Ends a trial that has diverged, so that the search continues with the next one."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Prune the trial if a weight is not finite."""
        try:
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step >= state.max_steps:
                check_weights(kwargs["model"], "in its last step")
        except TuneportError as error:
            raise optuna.TrialPruned(str(error)) from error


def _objective(metrics: dict[str, float], metric: str) -> float:
    """Return a trial's metric; prunes the trial if it or the loss is not finite."""
    value = metrics[f"eval_{metric}"]
    if not math.isfinite(value) or not math.isfinite(metrics["eval_loss"]):
        raise optuna.TrialPruned(f"{metric} is {value}, the loss {metrics['eval_loss']}")
    return value
