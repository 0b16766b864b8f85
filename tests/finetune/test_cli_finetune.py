"""What `tuneport finetune` says: in its help, before it trains, and when it is interrupted."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from kit.command import tuneport
from kit.data import write_splits

from tuneport.cli.finetune import FLAGS
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.tasks import all_tasks


def test_the_help_names_tasks_and_strategies_and_every_setting_with_its_meaning() -> None:
    message = " ".join(tuneport("finetune", "--help").out.split())
    for word in (*all_tasks(), "text_pair", "adalora", "Example: tuneport finetune"):
        assert word in message
    for name, field in FinetuneConfig.model_fields.items():
        assert name.replace("_", "-" if name in FLAGS else "_") in message
        assert " ".join(str(field.description).split()) in message


def test_every_setting_has_a_description_of_one_line() -> None:
    for name, field in FinetuneConfig.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description, name


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupted_run_says_how_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    out = tmp_path / "run"

    def stop(*_: Any, **__: Any) -> None:
        if begun:
            out.mkdir()
            (out / "settings.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("tuneport.stages.finetune.train.finetune", stop)
    done = tuneport("finetune", "--task", "regression", "--model", "m", "--data", "d", "--out", out)
    assert done.code == 130
    assert done.err.startswith("interrupted; ")
    assert ("--resume" in done.err) is begun


def test_warnings_are_printed_once_and_before_training(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tuneport.stages.finetune.trainer.TuneportTrainer.train", train)
    rows = [{"text": f"film {i}", "label": "ab"[i % 2]} for i in range(12)]
    data = write_splits(tmp_path / "data", train=rows, validation=rows[:3])
    task = ("--task", "text-classification", "--model", base, "--data", data)
    done = tuneport("finetune", *task, "--out", tmp_path / "run", "--set", "max_length=32")
    assert done.err.count("warning: 3 of train's 12 rows are also in validation.jsonl\n") == 1
    assert "--resume continues" in done.err
