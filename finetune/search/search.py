"""Hyper-parameter search with Optuna, through `Trainer.hyperparameter_search`; it can be resumed.

runs/s/settings.json  the settings, data and space of the search
runs/s/study.db       Optuna's record of every trial that has ended
runs/s/trials.json    the table of trials, best first; trials.png is a plot of it
runs/s/best.toml      the best settings, for `tuneport finetune --config`
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import optuna

from tuneport.errors import TuneportError
from tuneport.folders import check_out

from ..config import FinetuneConfig
from ..resume import SETTINGS, check_can_create, check_unchanged
from ..setup import Prepared, load_model, prepare
from ..train import write_json
from .space import Range, check_space
from .trials import run_trials, trial_trainer

matplotlib.use("agg")
from matplotlib import pyplot

NAME = "search"
STUDY, TRIALS, PICTURE, BEST = "study.db", "trials.json", "trials.png", "best.toml"


def search(
    config: FinetuneConfig,
    space: dict[str, Range],
    out: Path,
    *,
    trials: int,
    overwrite: bool = False,
    resume: bool = False,
    warn: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run trials until there are `trials` of them; returns the number, the metric and the settings of the best one.

    `resume` continues a search that was interrupted, with its finished trials. A trial is scored by the task's best
    metric (or `metric_for_best_model`) on the validation split when it ends; one that diverges counts as a trial
    without a result. `warn` is called with each warning before the first trial. Raises TuneportError, before any
    trial, for values that the settings do not take, and for `resume` with other settings, data or space.
    """
    check_can_create(out)
    _check_settings(config)
    space = check_space(config, space)
    if not resume:
        check_out(out, marker=STUDY, overwrite=overwrite)
    elif not (out / STUDY).is_file():
        raise TuneportError(f"{out} holds no search", "leave out --resume to begin one")
    # Trials are scored when they end, and only their metrics are kept.
    prepared = prepare(config.model_copy(update={"eval_strategy": "no", "save_strategy": "no", "report_to": ()}))
    identity = _identity(prepared, config, space)
    if resume:
        check_unchanged(out, identity, "settings, data or space")
    model = load_model(prepared)  # may raise, which has to happen before anything is written
    for warning in prepared.warnings if warn else ():
        warn(warning)  # type: ignore[misc]
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        write_json(out / SETTINGS, identity)
    return _search(prepared, config, space, out, trials, model)


def _check_settings(config: FinetuneConfig) -> None:
    """Refuse settings that need evaluations during training, or a second training."""
    names = ("early_stopping_patience", "load_best_model_at_end", "pseudo_label_data")
    if used := [name for name in names if getattr(config, name)]:
        problem = f"a search scores trials when they end, without {', '.join(used)}"
        raise TuneportError(problem, "leave it out of the search, and pass it to tuneport finetune with best.toml")


def _identity(prepared: Prepared, config: FinetuneConfig, space: dict[str, Range]) -> dict[str, Any]:
    """Return what a resumed search must have in common with the one that was interrupted."""
    return {
        "config": config.model_dump(mode="json"),
        "data": prepared.data.source.fingerprint,
        "space": {name: values.model_dump(mode="json") for name, values in space.items()},
    }


def _search(
    prepared: Prepared, config: FinetuneConfig, space: dict[str, Range], out: Path, trials: int, model: Any
) -> dict[str, Any]:
    metric = prepared.task.best_metric()
    direction = "minimize" if metric.lower_is_better else "maximize"
    storage = {"study_name": NAME, "storage": f"sqlite:///{out.resolve() / STUDY}"}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(**storage, load_if_exists=True, direction=direction)
    if (count := trials - len(_ended_trials(study))) > 0:
        trainer = trial_trainer(prepared, out, model, set(space))
        # A resumed search must not draw the same values again.
        sampler = optuna.samplers.TPESampler(seed=config.seed + trials - count)
        options = {"direction": direction, "sampler": sampler, "load_if_exists": True, **storage}
        try:
            run_trials(trainer, space, count, metric.name, **options)
        except ValueError:  # transformers looks up the best trial, which does not exist if all have diverged
            if len(_ended_trials(study)) < trials or any(trial.value is not None for trial in _ended_trials(study)):
                raise
    ended = _ended_trials(study)
    finished = [trial for trial in ended if trial.value is not None]
    if not finished:
        raise TuneportError(f"all {len(ended)} trials of {out} diverged", "search smaller values of learning_rate")
    finished.sort(key=lambda trial: trial.value or 0.0, reverse=not metric.lower_is_better)
    return _write(out, config, finished, metric.name)


def _ended_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials with a result and those that diverged."""
    return study.get_trials(states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED))


def _write(out: Path, config: FinetuneConfig, trials: list[optuna.trial.FrozenTrial], metric: str) -> dict[str, Any]:
    """Write the table, the best settings and the plot of trials, which are sorted; returns the table's first row."""
    table = [{"trial": trial.number, metric: trial.value, **trial.params} for trial in trials]
    (out / TRIALS).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    best = {**config.model_dump(mode="json", exclude_none=True, exclude_defaults=True), **trials[0].params}
    lines = [f"{name} = {_toml(value)}" for name, value in best.items()]
    (out / BEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
    _draw(out / PICTURE, trials, metric)
    return table[0]


def _toml(value: Any) -> str:
    """Write a value as TOML, which differs from JSON only in its tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _draw(file: Path, trials: list[optuna.trial.FrozenTrial], metric: str) -> None:
    """Draw the metric over every setting that was varied, each in a panel of its own."""
    names = sorted({name for trial in trials for name in trial.params})
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.4 * len(names), 3), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        numeric = all(isinstance(trial.params[name], int | float) for trial in trials)
        values = [trial.params[name] if numeric else str(trial.params[name]) for trial in trials]
        axis.scatter(values, [trial.value for trial in trials], c=range(len(trials)), cmap="viridis_r", s=24)
        axis.set(xlabel=name, ylabel=metric)
        distribution = trials[0].distributions[name]
        if getattr(distribution, "log", False):
            axis.set_xscale("log")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
