"""The comparison of training speeds: fair, honest about what it timed, and refused where it would not be."""

import json
import random
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from helpers import build_checkpoint, random_texts, write_rows
from transformers import BertModel

from benchmarks import training
from benchmarks.training import Run, Settings, Side, compare
from export.files import TuneportError
from export.machine import Machine


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("training")
    build_checkpoint(folder / "base", architecture=BertModel)
    texts, chance = random_texts(7), random.Random(7)
    for split, count in {"train": 60, "validation": 12}.items():
        rows = [{"text": next(texts), "label": chance.choice(("a", "b"))} for _ in range(count)]
        write_rows(folder / f"{split}.jsonl", rows)
    return Settings(
        data=str(folder), model=str(folder / "base"), max_steps=4, per_device_train_batch_size=8, max_length=32
    )


@pytest.mark.slow
def test_both_sides_train_alike_and_are_reported(settings: Settings, tmp_path: Path) -> None:
    report = compare(settings, tmp_path, rounds=2, bf16=False)
    assert [side.name for side in report.sides] == ["plain Trainer", "tuneport"]
    assert all(len(side.runs) == 2 for side in report.sides)
    # The same rows in the same order from the same seed: not just about the same loss.
    assert report.sides[0].runs[0].loss == pytest.approx(report.sides[1].runs[0].loss, rel=1e-4)
    assert json.loads((tmp_path / "training.json").read_text()) == report.model_dump(mode="json")
    table = (tmp_path / "training.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == ["plain Trainer", "tuneport"]
    assert not (tmp_path / "runs").exists()


def test_a_ratio_is_to_the_plain_trainer_in_fp32(settings: Settings) -> None:
    sides = [("plain Trainer", False, 4), ("tuneport", False, 2)]
    report = training.Report(
        settings=settings,
        sides=tuple(
            Side(name=name, bf16=bf16, runs=tuple(Run(train_seconds=s, loss=0.5) for s in (seconds, 2 * seconds, 1)))
            for name, bf16, seconds in sides
        ),
        machine=Machine.here(),
        git_commit=None,
    )
    assert report.table().splitlines()[2:] == [
        "| plain Trainer | fp32 | 8.0 | 1.00 | 8.0–1.0 | 0.5000 |",
        "| tuneport | fp32 | 16.0 | 2.00 | 4.0–1.0 | 0.5000 |",
    ]


def test_unlike_trainings_are_not_compared(settings: Settings, tmp_path: Path) -> None:
    ours, plain = Run(train_seconds=1, loss=0.5), Run(train_seconds=1, loss=0.6)
    with (
        patch.object(training, "_run_plain", return_value=plain),
        patch.object(training, "_run_tuneport", return_value=ours),
        pytest.raises(TuneportError, match=r"0\.6000 and 0\.5000"),
    ):
        compare(settings, tmp_path, rounds=1, bf16=False)
    assert not list(tmp_path.iterdir())


def test_bf16_is_refused_where_the_processor_has_none(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Machine.here().model_copy(update={"instructions": ("avx2",)})
    arguments = ["training", "--data", settings.data, "--model", settings.model, "--out", str(tmp_path), "--bf16"]
    with (
        patch.object(Machine, "here", return_value=here),
        patch.object(sys, "argv", arguments),
        pytest.raises(SystemExit, match=r"does not multiply bf16.*leave out --bf16"),
    ):
        training.main()
