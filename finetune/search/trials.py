"""The trials of a search: each is trained and evaluated as `tuneport finetune` does with the same settings."""

from pathlib import Path
from typing import Any

import optuna

from ..config import FinetuneConfig
from ..divergence import Diverged, check_weights
from ..fit import fit
from ..setup import Prepared, evaluate, load_model, make_trainer, prepare, with_settings
from ..strategies.strategies import finish_strategy
from .space import Range

PROBLEM = "problem"
"""Attribute of a trial that diverged: what was not finite."""


def run_trial(study: optuna.Study, prepared: Prepared, space: dict[str, Range], out: Path, metric: str) -> None:
    """Draw the settings of the next trial, train it, and record its metric on the validation split.

    One that diverges is recorded as pruned. The draw depends on the seed and the trials before alone, so that a search
    that is resumed draws what it would have drawn. Raises TuneportError for a trial that cannot be trained.
    """
    ended = ended_trials(study)
    study.sampler = optuna.samplers.TPESampler(seed=prepared.config.seed + len(ended))
    trial = study.ask()
    settings = {name: values.suggest(trial, name) for name, values in space.items()}
    try:
        value = train_trial(prepared, settings, out, metric)
    except Diverged as error:
        trial.set_user_attr(PROBLEM, error.problem)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, value)


def ended_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials with a result and those that diverged, in their order; not those that were interrupted."""
    return study.get_trials(states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED))


def train_trial(prepared: Prepared, settings: dict[str, Any], out: Path, metric: str) -> float:
    """Train with the changed settings, and return the metric on the validation split; raises Diverged."""
    config = FinetuneConfig.model_validate({**prepared.config.model_dump(), **settings})
    prepared = prepare(config) if "seed" in settings else with_settings(prepared, config)
    trainer = fit(make_trainer(prepared, out, load_model(prepared)), prepared, out)
    check_weights(trainer.model, "in its last steps")
    trainer.model = trainer.model_wrapped = finish_strategy(trainer.accelerator.unwrap_model(trainer.model))
    return evaluate(trainer, prepared, "validation").metrics[metric]
