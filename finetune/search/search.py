"""Hyper-parameter search with Optuna; it can be resumed.

runs/s/settings.json  the settings, data and space of the search
runs/s/study.db       Optuna's record of every trial that has ended
runs/s/trials.json    the table of trials, best first, those that diverged last; trials.png is a plot of it
runs/s/best.toml      the best settings, for `tuneport finetune --config`
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from tuneport.errors import TuneportError
from tuneport.folders import check_out, new_folder
from tuneport.schema.run import SETTINGS
from tuneport.tasks import MetricSpec

from ..config import FinetuneConfig
from ..processes import processes
from ..resume import TRAINER, check_outside, check_resumed_folder, check_unchanged
from ..setup import Prepared, load_model, prepare
from ..toml import to_toml
from ..train import write_json
from .picture import draw_trials
from .space import Range, check_space
from .trials import PROBLEM, ended_trials, run_trial

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
    if processes().num_processes > 1:
        raise TuneportError("a search runs in one process", "leave out torchrun or accelerate launch")
    _check_settings(config)
    space = check_space(config, space)
    if not resume:
        check_outside(out, config.inputs)
        check_out(out, marker=STUDY, overwrite=overwrite)
    elif not (out / STUDY).is_file():
        raise TuneportError(f"{out} holds no search", "leave out --resume to begin one")
    else:
        check_resumed_folder(out)
    # Trials are scored when they end, and only their metrics are kept.
    prepared = prepare(config.model_copy(update={"eval_strategy": "no", "save_strategy": "no", "report_to": ()}))
    identity = _identity(prepared, config, space)
    if resume:
        check_unchanged(out, identity, "settings, data or space")
    load_model(prepared)  # may raise, which has to happen before anything is written
    for warning in prepared.warnings if warn else ():
        warn(warning)  # type: ignore[misc]
    if not resume:
        with new_folder(out, marker=STUDY, overwrite=overwrite) as folder:
            write_json(folder / SETTINGS, identity)
    return _search(prepared, config, space, out, trials)


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
    prepared: Prepared, config: FinetuneConfig, space: dict[str, Range], out: Path, trials: int
) -> dict[str, Any]:
    metric = prepared.task.best_metric()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=NAME,
        storage=f"sqlite:///{out.resolve() / STUDY}",
        load_if_exists=True,
        direction="minimize" if metric.lower_is_better else "maximize",
    )
    while len(ended_trials(study)) < trials:
        run_trial(study, prepared, space, out / TRAINER, metric.name)
    shutil.rmtree(out / TRAINER, ignore_errors=True)
    table = _table(ended_trials(study), metric)
    (out / TRIALS).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    if table[0][metric.name] is None:
        raise TuneportError(f"all {len(table)} trials of {out} diverged", "search smaller values of learning_rate")
    _write_best(out / BEST, config, {name: table[0][name] for name in space})
    draw_trials(out / PICTURE, ended_trials(study), metric.name)
    return table[0]


def _table(trials: list[optuna.trial.FrozenTrial], metric: MetricSpec) -> list[dict[str, Any]]:
    """Return a row for each trial, numbered from 0 in their order, the best first and those that diverged last."""
    rows = [
        {"trial": i, metric.name: trial.value, **trial.params}
        | ({} if trial.value is not None else {"diverged": trial.user_attrs.get(PROBLEM, "")})
        for i, trial in enumerate(trials)
    ]
    sign = 1 if metric.lower_is_better else -1
    return sorted(rows, key=lambda row: (row[metric.name] is None, sign * (row[metric.name] or 0.0)))


def _write_best(file: Path, config: FinetuneConfig, drawn: dict[str, Any]) -> None:
    """Write the settings that were given, and those that were drawn, so that a run of them is the best trial again."""
    best = {**config.model_dump(mode="json", exclude_none=True, exclude_defaults=True), **drawn}
    lines = [f"{name} = {to_toml(value)}" for name, value in best.items()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
