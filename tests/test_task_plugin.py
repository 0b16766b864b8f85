"""A task that another package brings: one `TaskSpec`, one module a stage, found through its entry point."""

import json
import os
import shutil
from pathlib import Path

import pytest
from kit.command import tuneport
from kit.data import write_rows
from kit.encoders import build_checkpoint
from kit.texts import random_texts
from transformers import BertModel

from tuneport import tasks

PLUGIN = Path(__file__).with_name("plugin") / "toy_task"


@pytest.fixture
def installed_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the package as pip would: its modules, and metadata that name the entry point."""
    site = tmp_path / "site"
    shutil.copytree(PLUGIN, site / "toy_task", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = site / "toy_task-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_task\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tuneport.tasks]\nliking = toy_task:SPEC\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))))
    monkeypatch.setattr(tasks, "_registry", dict(tasks._registry))


@pytest.mark.usefixtures("_quick_exports", "_quick_reports")
def test_a_task_from_outside_is_fine_tuned_exported_and_served(installed_plugin: None, tmp_path: Path) -> None:
    build_checkpoint(tmp_path / "base", architecture=BertModel)
    texts = random_texts(3)
    (tmp_path / "data").mkdir()
    for split, count in {"train": 48, "validation": 40, "test": 16}.items():
        rows = [{"text": f"{('song', 'vote')[i % 2]} {next(texts)}", "liked": i % 2 == 0} for i in range(count)]
        write_rows(tmp_path / "data" / f"{split}.jsonl", rows)
    run, artifact = tmp_path / "run", tmp_path / "artifact"
    settings = ("max_steps=60", "learning_rate=1e-3", "max_length=48", "eval_strategy=no", "save_strategy=no")
    trained = tuneport(
        "finetune", "--task", "liking", "--model", tmp_path / "base", "--data", tmp_path / "data", "--out", run,
        *(part for each in (*settings, "report_to=none") for part in ("--set", each)),
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert json.loads((run / "run.json").read_text())["metrics"]["test"]["accuracy"] == 1.0

    exported = tuneport("export", run, "--out", artifact, "--variants", "fp32,int8")
    assert exported.code == 0, exported.err
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["task"] == "liking"
    assert {each["evidence"]["metric"]["name"] for each in manifest["variants"]} == {"brier"}

    answers = tuneport("predict", artifact, "song of the year", "vote of the year")
    assert answers.code == 0, answers.err
    liked, disliked = (json.loads(line)["liked"] for line in answers.out.splitlines())
    assert liked > 0.5 > disliked


def test_an_unknown_task_is_an_error_that_names_the_tasks() -> None:
    assert "liking" not in tasks.all_tasks()
    with pytest.raises(ValueError, match="'liking' is not a task: choose among text-classification, "):
        tasks.task_spec("liking")
