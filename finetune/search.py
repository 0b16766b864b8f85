"""Hyper-parameter search with Optuna, through `Trainer.hyperparameter_search`; resumable.

runs/s/settings.json  what it was begun with: settings, data, space
runs/s/study.db       every trial, as it ends
runs/s/trials.json    the table of trials, best first; trials.png the same as a picture
runs/s/best.toml      the best settings, for `tuneport finetune --config`
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import optuna

from export.files import TuneportError, check_out
from finetune.config import FinetuneConfig
from finetune.metrics import greater_is_better, metric_of
from finetune.session import Prepared, load_model, prepare
from finetune.space import Range, check_space
from finetune.train import write_json
from finetune.trials import run_trials, trial_trainer
from finetune.unfinished import SETTINGS, check_place, check_same

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
    """Run trials until there are `trials` of them; returns the best one's settings and metric.

    A search that was interrupted goes on with `resume`; its finished trials are kept. Every trial is judged by
    the task's best metric (or `metric_for_best_model`) on the validation split; one that diverges counts as a
    trial without a result. `warn` gets each warning before the first. Raises TuneportError, before any trial, for
    a space that the settings do not take, and for `resume` with other settings, data or space.
    """
    check_place(out)
    _check_settings(config)
    space = check_space(config, space)
    if not resume:
        check_out(out, marker=STUDY, overwrite=overwrite)
    elif not (out / STUDY).is_file():
        raise TuneportError(f"{out} holds no search", "leave out --resume to begin one")
    # Trials are judged at their end, and nothing of them is kept but their figures.
    prepared = prepare(config.model_copy(update={"eval_strategy": "no", "save_strategy": "no", "report_to": ()}))
    identity = _identity(prepared, config, space)
    if resume:
        check_same(out, identity, "settings, data or space")
    model = load_model(prepared)  # fails, if it does, before anything is written
    for warning in prepared.warnings if warn else ():
        warn(warning)  # type: ignore[misc]
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        write_json(out / SETTINGS, identity)
    return _search(prepared, config, space, out, trials, model)


def _check_settings(config: FinetuneConfig) -> None:
    """Refuse what concerns evaluations during training: a trial is judged at its end."""
    given = config.early_stopping_patience is not None, config.load_best_model_at_end, config.pseudo_label_data
    names = ("early_stopping_patience", "load_best_model_at_end", "pseudo_label_data")
    if found := [name for name, value in zip(names, given, strict=True) if value]:
        problem = f"a search judges trials at their end, without {', '.join(found)}"
        raise TuneportError(problem, "leave it out of the search, and pass it to tuneport finetune with best.toml")


def _identity(prepared: Prepared, config: FinetuneConfig, space: dict[str, Range]) -> dict[str, Any]:
    """Say what a search that goes on must have in common with the one that was interrupted."""
    return {
        "config": config.model_dump(mode="json"),
        "data": prepared.data.source.fingerprint,
        "space": {name: each.model_dump(mode="json") for name, each in space.items()},
    }


def _search(
    prepared: Prepared, config: FinetuneConfig, space: dict[str, Range], out: Path, trials: int, model: Any
) -> dict[str, Any]:
    metric = metric_of(prepared.config, prepared.task)
    greater = greater_is_better(metric)
    direction = "maximize" if greater else "minimize"
    place = {"study_name": NAME, "storage": f"sqlite:///{out.resolve() / STUDY}"}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(**place, load_if_exists=True, direction=direction)
    if (count := trials - len(_ended(study))) > 0:
        trainer = trial_trainer(prepared, out, model, set(space))
        # What goes on draws other values than what it has drawn already.
        sampler = optuna.samplers.TPESampler(seed=config.seed + trials - count)
        options = {"direction": direction, "sampler": sampler, "load_if_exists": True, **place}
        try:
            run_trials(trainer, space, count, metric, **options)
        except ValueError:  # transformers asks for the best trial, and all have diverged
            if len(_ended(study)) < trials or any(trial.value is not None for trial in _ended(study)):
                raise
    ended = _ended(study)
    finished = [trial for trial in ended if trial.value is not None]
    if not finished:
        raise TuneportError(f"all {len(ended)} trials of {out} diverged", "search smaller values of learning_rate")
    return _write(out, config, sorted(finished, key=lambda t: t.value or 0.0, reverse=greater), metric)


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials with a result, and those that diverged."""
    return study.get_trials(states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED))


def _write(out: Path, config: FinetuneConfig, trials: list[optuna.trial.FrozenTrial], metric: str) -> dict[str, Any]:
    table = [{"trial": trial.number, metric: trial.value, **trial.params} for trial in trials]
    (out / TRIALS).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    best = {**config.model_dump(mode="json", exclude_none=True, exclude_defaults=True), **trials[0].params}
    lines = [f"{name} = {_toml(value)}" for name, value in best.items()]
    (out / BEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
    _draw(out / PICTURE, trials, metric)
    return table[0]


def _toml(value: Any) -> str:
    """Write a value as TOML, which differs from JSON in its tables alone."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _draw(file: Path, trials: list[optuna.trial.FrozenTrial], metric: str) -> None:
    """Draw the metric over every setting that was varied, a panel each."""
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
