"""Learning rates by step, clipping, and what TensorBoard shows are what the settings say."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.setup import Prepared, load_model, make_trainer, prepare, with_settings
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
STEPS, RATE = 20, 1e-3


class _StepRecorder(TrainerCallback):
    """Records the rate that each step uses, and the norm of the gradient that it uses."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.norms: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        self.norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))


def _record(config: FinetuneConfig, out: Path, prepared: Prepared) -> _StepRecorder:
    prepared = with_settings(prepared, config)
    trainer = make_trainer(prepared, out, load_model(prepared))
    recorder = _StepRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    return recorder


def _linear(step: int, warmup: int) -> float:
    return (STEPS - step) / (STEPS - warmup)


def _cosine(step: int, warmup: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


SCHEDULES: list[tuple[dict[str, Any], float, Callable[[int, int], float]]] = [
    ({}, 0.1, _linear),
    ({"lr_scheduler_type": "linear", "warmup_ratio": 0.25}, 0.25, _linear),
    ({"lr_scheduler_type": "cosine", "warmup_ratio": 0.25}, 0.25, _cosine),
    ({"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.25}, 0.25, lambda step, warmup: 1.0),
    ({"lr_scheduler_type": "linear", "warmup_ratio": 0.0}, 0.0, _linear),
    ({"lr_scheduler_type": "constant"}, 0.0, lambda step, warmup: 1.0),
]
"""Settings, the share of the steps with a rising rate, and the rate after them as a share of the whole."""


def test_the_rate_of_each_step_is_that_of_the_schedule(settings: Settings, tmp_path: Path) -> None:
    """It rises from 0 in a share of the steps, then follows the schedule; step 0 is the first."""
    common = {
        "bf16": False,
        "max_steps": STEPS,
        "learning_rate": RATE,
        "strategy": "head",
        "per_device_train_batch_size": 2,
    }
    prepared = prepare(settings(**common))
    for changes, warmup_ratio, after in SCHEDULES:
        warmup = math.ceil(STEPS * warmup_ratio)
        expected = [RATE * (step / warmup if step < warmup else after(step, warmup)) for step in range(STEPS)]
        assert _record(settings(**common, **changes), tmp_path, prepared).rates == pytest.approx(expected, abs=1e-12)


def test_the_gradients_norm_is_clipped(settings: Settings, tmp_path: Path) -> None:
    settings = partial(settings, bf16=False)
    prepared = prepare(settings())
    free = _record(settings(max_grad_norm=0, learning_rate=1e-4), tmp_path, prepared).norms
    limit = min(free) / 2
    clipped = _record(settings(max_grad_norm=limit, learning_rate=1e-4), tmp_path, prepared).norms
    assert clipped == pytest.approx([limit] * len(free), rel=1e-3)
    wide = _record(settings(max_grad_norm=max(free) * 10, learning_rate=1e-4), tmp_path, prepared).norms
    assert wide == pytest.approx(free)


def test_tensorboard_shows_what_was_trained(settings: Settings, tmp_path: Path) -> None:
    config = settings(
        max_steps=4, logging_steps=1, report_to=["tensorboard"], eval_strategy="steps", eval_steps=2, warmup_ratio=0.5,
        lr_scheduler_type="constant_with_warmup", bf16=False, dropout=0.0,
    )  # fmt: skip
    run = finetune(config, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "logs"))
    events.Reload()
    series = {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}
    assert series["train/learning_rate"] == pytest.approx({1: 0.0, 2: 5e-4, 3: 1e-3, 4: 1e-3})
    assert series["train/loss"].keys() == {1, 2, 3, 4}
    assert series["train/loss"][1] == pytest.approx(_first_loss(config, tmp_path), rel=1e-4)
    assert series["eval/loss"].keys() == {2, 4}
    for name in ("loss", "accuracy", "f1_macro"):
        assert series[f"eval/{name}"][4] == pytest.approx(run.metrics["validation"][name], rel=1e-5)


def _first_loss(config: FinetuneConfig, out: Path) -> float:
    """Compute the loss of the first batch of an untrained model."""
    prepared = prepare(config.model_copy(update={"report_to": ()}))
    trainer = make_trainer(prepared, out / "other", load_model(prepared))
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        logits = trainer.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return float(torch.nn.functional.cross_entropy(logits, batch["labels"]))
