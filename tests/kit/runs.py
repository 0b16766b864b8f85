"""Fine-tuning runs without what is not under test: records without the runs, and runs without pictures."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tuneport.host import Host
from tuneport.schema.run import RUN, DataSource, Run, Training

from .encoders import LABELS

if TYPE_CHECKING:
    from tuneport.stages.finetune.setup import Prepared
    from tuneport.stages.finetune.trainer import TuneportTrainer


def run_record(**changes: Any) -> dict[str, Any]:
    """Return the content of run.json of a classifier."""
    run = Run(
        task="text-classification",
        labels=LABELS,
        accepts_pairs=False,
        max_length=32,
        inputs=("input_ids", "token_type_ids", "attention_mask"),
        config={"model": "bert", "max_length": 32, "doc_stride": 8, "strategy": "full", "columns": {"text": "review"}},
        seed=42,
        data=DataSource(source="data", columns={}, seed=42, fingerprint="0" * 64, rows={"train": 60, "test": 60}),
        metrics={"test": {"accuracy": 0.5, "loss": 1.25}},
        train_rows=60,
        trained_parameters=1000,
        train_seconds=1.5,
        training=Training(
            device="cpu",
            device_name="a processor",
            processes=1,
            precision="fp32",
            tf32=False,
            compiled=False,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=1,
            throughput=None,
        ),
        warnings=("the label loud has 3 rows",),
        host=Host.here(),
        git_commit=None,
        versions={"torch": "2.13.0"},
        created="2026-01-01T00:00:00+00:00",
    )
    return {**run.model_dump(mode="json"), **changes}


def write_run(folder: Path, **changes: Any) -> Path:
    """Write run.json; returns the folder."""
    (folder / RUN).write_text(json.dumps(run_record(**changes)), encoding="utf-8")
    return folder


def take_adversarial_step(prepared: "Prepared", folder: Path) -> "TuneportTrainer":
    """Take one step of a learning rate of nearly 0, after which the embeddings are where they were."""
    import torch

    from tuneport.stages.finetune.setup import load_model, make_trainer

    trainer = make_trainer(prepared, folder, load_model(prepared))
    trainer.create_optimizer()
    batch = next(iter(trainer.get_train_dataloader()))
    weight = trainer.model.get_input_embeddings().weight
    before = weight.detach().clone()
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model, dict(batch))
    assert torch.equal(weight, before)
    return trainer


@contextlib.contextmanager
def quick_reports() -> Iterator[None]:
    """Let runs draw no pictures, which takes longer than to train a tiny model."""
    from tuneport.stages.finetune import report  # imports torch and matplotlib

    def draw_nothing(file: Path, *_: Any) -> bool:
        file.write_bytes(b"")
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_curves", draw_nothing)
        patch.setattr(report, "draw_confusion", draw_nothing)
        yield
