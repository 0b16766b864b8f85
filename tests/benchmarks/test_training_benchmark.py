"""The training benchmark: both trainers train alike, ratios are right, and unfair comparisons are refused."""

import json
import random
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from kit.data import write_rows
from kit.encoders import build_checkpoint
from kit.texts import random_texts
from transformers import BertModel

from tuneport.errors import TuneportError
from tuneport.gpu import Gpu
from tuneport.host import Host
from tuneport.stages.benchmarks import training
from tuneport.stages.benchmarks.training import TrainerResult, TrainingReport, TrainingRun, TrainingSettings, compare


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    folder = tmp_path_factory.mktemp("training")
    build_checkpoint(folder / "base", architecture=BertModel)
    texts, chance = random_texts(7), random.Random(7)
    for split, count in {"train": 60, "validation": 12}.items():
        rows = [{"text": next(texts), "label": chance.choice(("a", "b"))} for _ in range(count)]
        write_rows(folder / f"{split}.jsonl", rows)
    return TrainingSettings(
        data=str(folder), model=str(folder / "base"), max_steps=4, per_device_train_batch_size=8, max_length=32
    )


@pytest.mark.slow
def test_both_trainers_train_alike_and_are_reported(settings: TrainingSettings, tmp_path: Path) -> None:
    report = compare(settings, tmp_path, rounds=2, bf16=False)
    assert [result.name for result in report.results] == ["plain Trainer", "tuneport"]
    assert all(len(result.runs) == 2 for result in report.results)
    # Same rows in the same order from the same seed: the losses are equal, not just similar.
    assert report.results[0].runs[0].loss == pytest.approx(report.results[1].runs[0].loss, rel=1e-4)
    assert json.loads((tmp_path / "training.json").read_text()) == report.model_dump(mode="json")
    table = (tmp_path / "training.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == ["plain Trainer", "tuneport"]
    assert {file.name for file in tmp_path.iterdir()} == {"training.json", "training.md"}


def test_a_ratio_is_to_the_plain_trainer_in_fp32(settings: TrainingSettings) -> None:
    cases = [("plain Trainer", False, 4), ("tuneport", False, 2)]
    report = TrainingReport(
        settings=settings,
        results=tuple(
            TrainerResult(
                name=name,
                bf16=bf16,
                runs=tuple(TrainingRun(train_seconds=s, loss=0.5, device="a GPU") for s in (seconds, 2 * seconds, 1)),
            )
            for name, bf16, seconds in cases
        ),
        host=Host.here(),
        git_commit=None,
    )
    assert report.table().splitlines()[2:] == [
        "| plain Trainer | a GPU | fp32 | 8.0 | 1.00 | 8.0–1.0 | 0.5000 |",
        "| tuneport | a GPU | fp32 | 16.0 | 2.00 | 4.0–1.0 | 0.5000 |",
    ]


def test_trainings_with_different_losses_are_not_compared(settings: TrainingSettings, tmp_path: Path) -> None:
    tuneport, plain = (TrainingRun(train_seconds=1, loss=loss, device="a GPU") for loss in (0.5, 0.6))
    with (
        patch.object(training, "_run_plain", return_value=plain),
        patch.object(training, "_run_tuneport", return_value=tuneport),
        pytest.raises(TuneportError, match=r"0\.6000 and 0\.5000"),
    ):
        compare(settings, tmp_path, rounds=1, bf16=False)
    assert not list(tmp_path.iterdir())


def test_trainings_on_different_devices_are_not_compared(settings: TrainingSettings, tmp_path: Path) -> None:
    plain, tuneport = (TrainingRun(train_seconds=1, loss=0.5, device=name) for name in ("a GPU", "a processor"))
    with (
        patch.object(training, "_run_plain", return_value=plain),
        patch.object(training, "_run_tuneport", return_value=tuneport),
        pytest.raises(TuneportError, match="on a GPU and on a processor"),
    ):
        compare(settings, tmp_path, rounds=1, bf16=False)


def test_both_trainers_see_the_first_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(
        Gpu(name="a GPU", compute_capability=capability, memory_gib=80, uuid=f"GPU-{capability}")
        for capability in ("9.0", "7.5")
    )
    host = Host.here().model_copy(update={"gpus": gpus, "instructions": ()})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training._environment(host)["CUDA_VISIBLE_DEVICES"] == "GPU-9.0"
    assert training.has_bf16(host)
    assert not training.has_bf16(host.model_copy(update={"gpus": gpus[::-1]}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a torch without CUDA
    assert "GPU-9.0" not in training._environment(host).values()
    assert not training.has_bf16(host)


@pytest.mark.gpu
def test_both_trainers_use_the_gpu(settings: TrainingSettings, tmp_path: Path) -> None:
    report = compare(settings, tmp_path, rounds=1, bf16=training.has_bf16(Host.here()))
    assert {run.device for result in report.results for run in result.runs} == {torch.cuda.get_device_name()}


def test_bf16_is_refused_where_the_processor_has_none(settings: TrainingSettings, tmp_path: Path) -> None:
    here = Host.here().model_copy(update={"instructions": ("avx2",), "gpus": ()})
    arguments = ["training", "--data", settings.data, "--model", settings.model, "--out", str(tmp_path), "--bf16"]
    with (
        patch.object(Host, "here", return_value=here),
        patch.object(sys, "argv", arguments),
        pytest.raises(SystemExit, match=r"no bf16 instructions.*leave out --bf16"),
    ):
        training.main()
