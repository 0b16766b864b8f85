"""A search tries what its space says, and refuses before the first trial what no run could take."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from kit.command import tuneport

from tuneport.errors import TuneportError
from tuneport.stages.finetune.config import FinetuneConfig, load_config
from tuneport.stages.finetune.search import trials
from tuneport.stages.finetune.search.search import search
from tuneport.stages.finetune.search.space import Range, read_space
from tuneport.stages.finetune.setup import make_trainer
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
RATES = {"learning_rate": Range(low=1e-5, high=1e-3)}


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail that comes as far as a trial."""

    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("a trial began")

    monkeypatch.setattr("tuneport.stages.finetune.trainer.TuneportTrainer.train", train)


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"lr_scheduler_type": Range(choices=("linera", "cosine"))}, "lr_scheduler_type = 'linera'"),
        ({"num_train_epochs": Range(choices=("a", "b"))}, "num_train_epochs = 'a'.*num_train_epochs = 'b'"),
        ({"per_device_train_batch_size": Range(low=0, high=1)}, "per_device_train_batch_size = 0"),
        ({"per_device_train_batch_size": Range(low=1, high=8.5)}, "per_device_train_batch_size = 8.5"),
        ({"per_device_train_batch_size": Range(choices=("8", True))}, "'8': not a int.*True: not a int"),
        ({"num_train_epochs": Range(low=1, high=2)}, "no effect beside max_steps"),
        ({"label_smoothing_factor": Range(low=0.1, high=0.2)}, "regression has no use for label_smoothing_factor"),
        ({"max_steps": Range(low=-1, high=2)}, "no number of steps"),
        (
            {"lr_scheduler_type": Range(choices=("constant", "linear")), "warmup_ratio": Range(low=0.0, high=0.3)},
            "warmup_ratio has no effect under lr_scheduler_type = constant",
        ),
    ],
)
def test_values_that_no_run_takes_are_refused_before_any_trial(
    settings: Settings, tmp_path: Path, space: dict[str, Range], words: str
) -> None:
    config = settings(task="regression") if words.startswith("regression") else settings()
    with pytest.raises(TuneportError, match=words):
        search(config, space, tmp_path / "s", trials=1)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("learning_rate = {low = 0, high = 1e-3, log = true}", "low must be above 0"),
        ("learning_rate = {low = 1e-5, high = inf}", "finite"),
        ("learning_rate = {low = 1e-5, choices = [1e-3]}", "give low and high, or choices"),
        ("fp16 = {choices = [true, false]}", "which a search cannot"),
        ("", "it varies no setting"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "s.toml").write_text(line)
    with pytest.raises(TuneportError, match=words):
        read_space(tmp_path / "s.toml")


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"early_stopping_patience": 2, "eval_strategy": "epoch", "save_strategy": "epoch"}, "without early_stopping"),
        ({"metric_for_best_model": "acc"}, "'acc' is no metric"),
    ],
)
def test_settings_that_no_trial_uses_are_refused(
    settings: Settings, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(TuneportError, match=words):
        search(settings(**changes), RATES, tmp_path / "s", trials=1)
    assert not (tmp_path / "s").exists()


def test_a_trial_trains_what_the_space_says(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[Any] = []

    def keep(*positional: Any, **named: Any) -> Any:
        trainers.append(make_trainer(*positional, **named))
        return trainers[-1]

    monkeypatch.setattr("tuneport.stages.finetune.search.trials.make_trainer", keep)
    space = {"num_train_epochs": Range(choices=(0.5,)), "label_smoothing_factor": Range(choices=(0.2,))}
    config = settings().model_copy(update={"max_steps": -1, "num_train_epochs": 3})
    search(config, space, tmp_path / "s", trials=1)
    assert trainers[0].state.global_step == 3  # half of 48 rows by 8
    assert trainers[0].loss.smoothing == 0.2


def test_a_search_resumes_only_with_the_same_settings_data_and_space(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "s"
    with pytest.raises(TuneportError, match="holds no search"):
        search(settings(), RATES, out, trials=1, resume=True)
    search(settings(max_steps=1), RATES, out, trials=1)
    for config, space in (
        (settings(max_steps=1, seed=7), RATES),
        (settings(max_steps=1), {"learning_rate": Range(low=1e-5, high=1e-2)}),
    ):
        with pytest.raises(TuneportError, match="other settings, data or space"):
            search(config, space, out, trials=2, resume=True)
    out = out.rename(tmp_path / "moved")
    search(settings(max_steps=1), RATES, out, trials=2, resume=True)
    assert len(json.loads((out / "trials.json").read_text())) == 2


def test_the_same_seed_draws_the_same_trials_and_resuming_draws_others(settings: Settings, tmp_path: Path) -> None:
    def drawn(name: str) -> list[float]:
        trials = json.loads((tmp_path / name / "trials.json").read_text())
        return [trial["learning_rate"] for trial in sorted(trials, key=lambda each: each["trial"])]

    config = settings(max_steps=1)
    for name in ("a", "b"):
        search(config, RATES, tmp_path / name, trials=1)
    search(config, RATES, tmp_path / "b", trials=2, resume=True)
    assert drawn("a") == drawn("b")[:1]
    assert len(set(drawn("b"))) == 2


def test_a_trial_that_diverges_has_no_result_and_the_others_run(settings: Settings, tmp_path: Path) -> None:
    config = settings(optim="sgd", max_grad_norm=0, warmup_ratio=0)
    space = {"learning_rate": Range(choices=(1e-3, 1e25))}
    best = search(config, space, tmp_path / "s", trials=5)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 's' / 'study.db'}")
    assert best["learning_rate"] == 1e-3
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "PRUNED"}
    table = _table(tmp_path / "s")
    assert sorted(row["trial"] for row in table) == [0, 1, 2, 3, 4]
    assert {row["learning_rate"] for row in table if row["f1_macro"] is not None} == {1e-3}
    assert [row for row in table if row["f1_macro"] is None] == [row for row in table if "diverged" in row]
    assert "diverged" in table[-1]["diverged"]
    with pytest.raises(TuneportError, match=r"all 1 trials .* diverged"):
        search(config, {"learning_rate": Range(choices=(1e25,))}, tmp_path / "t", trials=1)
    assert len(_table(tmp_path / "t")) == 1


def _table(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "trials.json").read_text())
    return rows


@pytest.mark.parametrize("strategy", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_the_best_settings_give_the_best_trials_figure_again(
    settings: Settings, tmp_path: Path, texts_and_labels: Path, strategy: str
) -> None:
    """With dropout, evaluations between, and a seed of the search's own, which decides the split of a single file."""
    data = shutil.copy(texts_and_labels / "train.jsonl", tmp_path / "all.jsonl")
    config = settings(
        data=str(data), strategy=strategy, metric_for_best_model="loss", dropout=0.3, max_steps=8,
        eval_strategy="epoch", save_strategy="steps", save_steps=3,
    )  # fmt: skip
    space = {"learning_rate": Range(low=1e-4, high=1e-2, log=True), "seed": Range(low=1, high=99)}
    best = search(config, space, tmp_path / "s", trials=2)
    run = finetune(load_config(tmp_path / "s" / "best.toml"), tmp_path / "run")
    assert run.seed == best["seed"]
    assert run.metrics["validation"]["loss"] == best["loss"]


def test_an_interrupted_search_ends_as_a_whole_one(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(max_steps=1, metric_for_best_model="loss")
    search(config, RATES, tmp_path / "whole", trials=3)
    with monkeypatch.context() as patch:
        patch.setattr("tuneport.stages.finetune.search.trials.train_trial", _interrupt_second(trials.train_trial))
        with pytest.raises(KeyboardInterrupt):
            search(config, RATES, tmp_path / "broken", trials=3)
    search(config, RATES, tmp_path / "broken", trials=3, resume=True)
    assert _table(tmp_path / "broken") == _table(tmp_path / "whole")
    assert (tmp_path / "broken" / "best.toml").read_text() == (tmp_path / "whole" / "best.toml").read_text()


def _interrupt_second(train_trial: Callable[..., float]) -> Callable[..., float]:
    calls: list[int] = []

    def train(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train_trial(*arguments)

    return train


def test_the_command_line_reports_a_wrong_space_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("learning_rate = 3")
    done = tuneport("search", "--space", file, "--task", "regression", "--model", "m", "--data", "d", "--out", "o")
    assert done.code == 1
    assert done.err.count("\n") == 1


@pytest.mark.usefixtures("no_trial")
@pytest.mark.parametrize("kind", ["parent", "move", "resume"])
def test_a_search_that_cannot_be_replaced_or_resumed_is_kept(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    out, rename = tmp_path / "s", os.rename
    out.mkdir()
    (out / "study.db").write_text("old")
    if kind == "move":
        monkeypatch.setattr(os, "rename", lambda old, new: refuse() if Path(old) == out else rename(old, new))
    else:
        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
        monkeypatch.setattr("tuneport.stages.finetune.search.search.prepare", refuse)
    with pytest.raises(TuneportError, match=r"s cannot be (replaced|written) \(Permission denied\)"):
        search(settings(), RATES, out, trials=1, overwrite=kind != "resume", resume=kind == "resume")
    assert (out / "study.db").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
