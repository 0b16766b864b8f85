"""Hyper-parameter search with Optuna, through `Trainer.hyperparameter_search`; resumable.

runs/s/study.db     every trial, as it ends
runs/s/trials.json  the table of trials, best first; trials.png the same as a picture
runs/s/best.toml    the best settings, for `tuneport finetune --config`
"""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import optuna
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from export.files import TuneportError, check_out
from finetune.config import FinetuneConfig
from finetune.session import PASSED_ON, Prepared, load_model, make_trainer, prepare

matplotlib.use("agg")
from matplotlib import pyplot

STUDY, TRIALS, PICTURE, BEST = "study.db", "trials.json", "trials.png", "best.toml"


class Range(BaseModel):
    """Values of one setting: from `low` to `high`, or one of `choices`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    """Spread trials evenly over the logarithm."""
    choices: tuple[int | float | str | bool, ...] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Range":
        bounds = self.low is not None and self.high is not None
        if bounds == bool(self.choices):
            raise ValueError("give low and high, or choices")
        if bounds and not self.low <= self.high:  # type: ignore[operator]
            raise ValueError("low is above high")
        return self

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Draw a value for a trial."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low or 0), float(self.high or 0), log=self.log)


Space = Annotated[dict[str, Range], Field(min_length=1)]


def read_space(file: Path) -> dict[str, Range]:
    """Read a TOML file of ranges, such as `learning_rate = {low = 1e-5, high = 5e-4, log = true}`."""
    remedy = "write for example: learning_rate = {low = 1e-5, high = 5e-4, log = true}"
    try:
        space = TypeAdapter(Space).validate_python(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TuneportError(f"cannot read {file} ({error})", remedy) from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise TuneportError(f"{file}: {wrong}", remedy) from error
    if unknown := sorted(set(space) - PASSED_ON):
        raise TuneportError(f"{file} varies {unknown}, which a search cannot", f"vary some of {sorted(PASSED_ON)}")
    return space


def search(
    config: FinetuneConfig,
    space: dict[str, Range],
    out: Path,
    *,
    trials: int,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Run trials until there are `trials` of them; returns the best one's settings and metric.

    A search that was interrupted goes on with `resume`; its finished trials are kept. Every trial is judged by
    the task's best metric (or `metric_for_best_model`) on the validation split.
    """
    if not resume:
        check_out(out, marker=STUDY, overwrite=overwrite)
        (out / STUDY).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    # Trials are judged at their end, and nothing of them is kept but their figures.
    prepared = prepare(config.model_copy(update={"eval_strategy": "no", "save_strategy": "no", "report_to": ()}))
    metric = config.metric_for_best_model or prepared.task.best_metric
    greater = prepared.task.greater_is_better and metric != "loss"
    storage = f"sqlite:///{out.resolve() / STUDY}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = "maximize" if greater else "minimize"
    study = optuna.create_study(study_name=out.name, storage=storage, load_if_exists=True, direction=direction)
    done = _finished(study)
    if len(done) < trials:
        _run_trials(prepared, space, out, trials - len(done), metric, direction, storage)
    study = optuna.load_study(study_name=out.name, storage=storage)
    return _write(out, config, sorted(_finished(study), key=lambda t: t.value or 0.0, reverse=greater), metric)


def _run_trials(
    prepared: Prepared, space: dict[str, Range], out: Path, count: int, metric: str, direction: str, storage: str
) -> None:
    trainer = make_trainer(prepared, out, load_model(prepared), model_init=lambda _: load_model(prepared))
    trainer.hyperparameter_search(
        hp_space=lambda trial: {name: each.suggest(trial, name) for name, each in space.items()},
        compute_objective=lambda metrics: metrics[f"eval_{metric}"],
        n_trials=count,
        direction=direction,
        backend="optuna",
        study_name=out.name,
        storage=storage,
        load_if_exists=True,
    )


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]


def _write(out: Path, config: FinetuneConfig, trials: list[optuna.trial.FrozenTrial], metric: str) -> dict[str, Any]:
    if not trials:
        raise TuneportError(f"no trial of {out} ended", "see the messages above")
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
