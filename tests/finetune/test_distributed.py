"""Fine-tuning in two processes, as `torchrun` starts them: the same model, one writer, each row evaluated once."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit import ROOT
from kit.data import read_rows, write_splits
from safetensors.torch import load_file

from tuneport.schema.run import Run
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.setup import evaluate, load_trained, make_trainer, prepare
from tuneport.stages.finetune.train import finetune


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one_does(
    settings: Callable[..., FinetuneConfig], tmp_path: Path, texts_and_labels: Path
) -> None:
    """Half the batch in each, so that the steps have the same rows; odd splits, which two processes cannot halve."""
    rows = {name: read_rows(texts_and_labels / f"{name}.jsonl") for name in ("train", "validation", "test")}
    rows = {
        "train": [*rows["train"][:47], rows["validation"][0]],
        "validation": rows["validation"][:13],
        "test": rows["test"][:7],
    }
    config = settings(
        data=str(write_splits(tmp_path / "data", **rows)), max_steps=12, dropout=0.0, group_by_length=False,
        optim="sgd", learning_rate=0.1, bf16=False, per_device_eval_batch_size=4, eval_strategy="epoch",
    )  # fmt: skip
    alone = finetune(config, tmp_path / "one")
    file = tmp_path / "settings.toml"
    halved = {**config.model_dump(exclude_none=True, exclude_defaults=True), "per_device_train_batch_size": 4}
    file.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in halved.items()))
    out = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "tuneport"]
    done = subprocess.run(
        [*command, "finetune", "--config", str(file), "--out", str(out)],
        cwd=ROOT, check=False, timeout=280, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    both = Run.model_validate_json((out / "run.json").read_text())

    first, second = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
    assert alone.training.processes == 1
    assert both.training.processes == 2
    assert both.training.throughput is not None

    prepared = prepare(config)
    trainer = make_trainer(prepared, tmp_path / "trainer", load_trained(prepared, out / "checkpoint"))
    for split, metrics in both.metrics.items():
        assert metrics == pytest.approx(evaluate(trainer, prepared, split).metrics, abs=1e-5)
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert {split: sum(map(sum, details["confusion"])) for split, details in evaluation.items()} == {
        "validation": 13, "test": 7,
    }  # fmt: skip

    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    lines = done.stdout.splitlines()
    assert [line.split(":")[0].split(" on ")[0] for line in lines[:3]] == ["trained", "validation", "test"]
    assert len([line for line in lines if line.startswith("wrote ")]) == 1
    assert done.stderr.count("warning: 1 of train's 48 rows") == 1
