"""Packages that only some settings need: named in one line before any work when they are absent or not set up."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from unittest.mock import Mock

import pytest
from kit.command import tuneport
from transformers import Trainer

from tuneport.errors import TuneportError
from tuneport.stages.finetune import optional_packages
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]


class UsageError(Exception):
    """As Weights & Biases raises it."""

    __module__ = "wandb.errors.errors"


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_an_absent_tracker_is_one_line_before_any_work(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    config = settings()
    monkeypatch.setattr(optional_packages, "version", Mock(side_effect=PackageNotFoundError))
    done = tuneport(
        "finetune", "--task", config.task, "--model", config.model, "--data", config.data, "--out", tmp_path / "run",
        "--set", f'report_to=["{package}"]',
    )  # fmt: skip
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert f"report_to = {package}" in done.err
    assert f"pip install {package}" in done.err
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_set_up_is_one_line(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional_packages, "version", Mock())
    monkeypatch.setattr(Trainer, "train", Mock(side_effect=UsageError("No API key configured.\nMore.")))
    with pytest.raises(UsageError):  # not asked for: not ours to explain
        finetune(settings(), tmp_path / "run")
    monkeypatch.setattr("tuneport.stages.finetune.train.make_trainer", Mock(return_value=Mock(train=Trainer.train)))
    with pytest.raises(TuneportError, match=r"\(No API key configured\.\); run `wandb login`") as error:
        finetune(settings(report_to=["wandb"]), tmp_path / "other")
    assert "\n" not in str(error.value)
