"""A run that was interrupted ends, bit for bit, as one that was not."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import ROOT
from kit.data import write_rows
from kit.killing import run_until_killed
from safetensors.torch import load_file

from tuneport.errors import TuneportError
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
STEPS_PER_EPOCH = 6
RESUMABLE: dict[str, Any] = {"max_steps": 16, "save_strategy": "steps", "save_steps": 4, "dropout": 0.2}
"""Checkpoints in the middle of an epoch."""


def _assert_same(left: Path, right: Path) -> None:
    """Compare the weights, bit for bit, and the metrics of two runs."""
    first, second = (json.loads((out / "run.json").read_text()) for out in (left, right))
    assert first["metrics"] == second["metrics"]
    assert first["train_rows"] == second["train_rows"]
    files = [*(left / "checkpoint").rglob("*.safetensors")]
    assert files
    for file in files:
        tensors, others = load_file(file), load_file(right / file.relative_to(left))
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def _interrupt(config: FinetuneConfig, out: Path, at: int) -> None:
    """Leave what a run leaves that ends at a step; as a kill, without running the callbacks after it."""

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == at:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuneport.stages.finetune.setup.StopOnDivergence.on_step_end", on_step_end)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, out)


def _write_toml(config: FinetuneConfig, file: Path) -> Path:
    values = config.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    file.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items()))
    return file


def test_a_killed_run_resumes_to_the_result_of_a_whole_one(settings: Settings, tmp_path: Path) -> None:
    """In the middle of the second epoch, with rows grouped by length, evaluations and accumulated batches."""
    config = settings(
        **{**RESUMABLE, "save_steps": 2}, gradient_accumulation_steps=2, per_device_train_batch_size=4,
        eval_strategy="epoch",
    )  # fmt: skip
    assert config.group_by_length
    finetune(config, tmp_path / "whole")
    run_until_killed(_write_toml(config, tmp_path / "settings.toml"), tmp_path / "broken", at=9)
    finetune(config, tmp_path / "broken", resume=True)
    _assert_same(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "adalora", "max_steps": 40, "save_steps": 14, "label_smoothing_factor": 0.1},
        {"strategy": "adapter"},
        *(
            pytest.param(changes, marks=pytest.mark.slow)
            for changes in (
                {"group_by_length": False},
                {"strategy": "lora", "lora_dropout": 0.1},
                {"strategy": "ia3"},
                {"strategy": "prefix"},
                {"strategy": "gradual", "max_steps": -1, "num_train_epochs": 3},
                {"strategy": "last_layers", "layer_lr_decay": 0.5},
                {"adversarial_epsilon": 0.3},
                {"optim": "adafactor"},
                {"optim": "sgd", "lr_scheduler_type": "cosine"},
                {"optim": "adagrad", "class_weights": "balanced"},
                {"augment_swap": 0.3, "augment_delete": 0.2},
                {"pooling": "attention", "bf16": True},
                # A checkpoint at the last step of an epoch, before the evaluation that follows it.
                {"eval_strategy": "epoch", "save_steps": STEPS_PER_EPOCH},
            )
        ),
    ],
    ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()),
)
def test_an_interrupted_run_resumes_to_the_result_of_a_whole_one(
    settings: Settings, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = settings(**{**RESUMABLE, **changes})
    finetune(config, tmp_path / "whole")
    at = config.save_steps * 2 + (0 if config.save_steps == STEPS_PER_EPOCH else 1)
    _interrupt(config, tmp_path / "broken", at=at + 1)
    finetune(config, tmp_path / "broken", resume=True)
    _assert_same(tmp_path / "whole", tmp_path / "broken")


STOPPING: dict[str, Any] = {
    "max_steps": 40, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
    "early_stopping_patience": 3, "metric_for_best_model": "loss", "optim": "sgd", "learning_rate": 3.0,
    "lr_scheduler_type": "constant", "warmup_ratio": 0.1, "max_grad_norm": 0,
}  # fmt: skip


def _last_step(out: Path) -> int:
    states = [json.loads(file.read_text()) for file in out.glob("trainer/checkpoint-*/trainer_state.json")]
    return max(state["global_step"] for state in states)


def test_early_stopping_counts_on_after_an_interruption(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted one evaluation before the last, and after the last."""
    monkeypatch.setattr("tuneport.stages.finetune.train.shutil.rmtree", lambda *_, **__: None)
    config = settings(**{**STOPPING, "warmup_ratio": 0.0})
    whole = finetune(config, tmp_path / "whole")
    history = json.loads(next((tmp_path / "whole" / "trainer").glob("checkpoint-*/trainer_state.json")).read_text())
    assert history
    last = _last_step(tmp_path / "whole")
    assert last < config.max_steps
    _interrupt(config, tmp_path / "broken", at=last - 1)
    assert finetune(config, tmp_path / "broken", resume=True).metrics == whole.metrics
    assert _last_step(tmp_path / "broken") == last
    _assert_same(tmp_path / "whole", tmp_path / "broken")
    # Killed after the checkpoint at which it stopped, before run.json: nothing is left to train.
    (tmp_path / "broken" / "run.json").unlink()
    moved = (tmp_path / "broken").rename(tmp_path / "moved")
    monkeypatch.setattr("tuneport.stages.finetune.trainer.TuneportTrainer.train", None)
    finetune(config, moved, resume=True)
    _assert_same(tmp_path / "whole", moved)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["teacher", ""])
def test_a_run_with_pseudo_labels_resumes_in_either_training(settings: Settings, tmp_path: Path, folder: str) -> None:
    more = write_rows(tmp_path / "more.jsonl", [{"text": f"{word} {word}"} for word in ("film", "vote") * 10])
    config = settings(
        **{**RESUMABLE, "max_steps": 24}, learning_rate=3e-3, pseudo_label_data=str(more), pseudo_label_threshold=0.6
    )
    finetune(config, tmp_path / "whole")
    toml = _write_toml(config, tmp_path / "settings.toml")
    run_until_killed(toml, tmp_path / "broken", at=9, folder=folder)
    assert (tmp_path / "broken" / "teacher" / "run.json").exists() == (not folder)
    finetune(config, tmp_path / "broken", resume=True)
    _assert_same(tmp_path / "whole", tmp_path / "broken")
    write_rows(more, [{"text": "vote"}] * 20)
    (tmp_path / "broken" / "run.json").unlink()
    with pytest.raises(TuneportError, match="other settings or data"):
        finetune(config, tmp_path / "broken", resume=True)


@pytest.mark.slow
def test_two_killed_processes_resume_to_the_result_of_whole_ones(settings: Settings, tmp_path: Path) -> None:
    config = settings(**RESUMABLE, gradient_accumulation_steps=1)
    toml = _write_toml(config, tmp_path / "settings.toml")
    run_until_killed(toml, tmp_path / "broken", at=6, processes=2)
    shutil.copytree(tmp_path / "broken", tmp_path / "alone")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "tuneport"]
    command = [*launcher, "finetune", "--config", str(toml)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "whole")], cwd=ROOT, check=True, timeout=240, capture_output=True, text=True
    )
    assert done.stdout.count("wrote ") == 1
    subprocess.run([*command, "--out", str(tmp_path / "broken"), "--resume"], cwd=ROOT, check=True, timeout=240)
    _assert_same(tmp_path / "whole", tmp_path / "broken")
    with pytest.raises(TuneportError, match="processes was 2 and is 1"):
        finetune(config, tmp_path / "alone", resume=True)


def test_a_resumed_run_says_which_setting_differs(settings: Settings, tmp_path: Path) -> None:
    _interrupt(settings(**RESUMABLE), tmp_path / "run", at=5)
    with pytest.raises(TuneportError, match=r"other settings or data: learning_rate was 0\.001 and is 0\.002"):
        finetune(settings(**RESUMABLE, learning_rate=0.002), tmp_path / "run", resume=True)
