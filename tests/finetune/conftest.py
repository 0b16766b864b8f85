"""A tiny base encoder and small labelled data whose labels can be learnt from the words."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.data import write_rows
from kit.encoders import build_checkpoint, tiny_encoder
from kit.runs import quick_reports
from kit.texts import random_texts
from transformers import BertModel

from tuneport.stages.finetune import pictures, report
from tuneport.stages.finetune.config import FinetuneConfig, load_config


@pytest.fixture(scope="package", autouse=True)
def _quick_reports() -> Iterator[None]:
    with quick_reports():
        yield


@pytest.fixture
def _pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs draw their pictures, as they do outside of the tests."""
    for name in ("draw_curves", "draw_confusion"):
        monkeypatch.setattr(report, name, getattr(pictures, name))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random BERT without a head."""
    folder = tmp_path_factory.mktemp("base")
    build_checkpoint(folder, architecture=BertModel)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, with the words of `tiny`, for tasks whose targets are positions."""
    return tiny_encoder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def texts_and_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts labelled by which of two words they end with."""
    folder = tmp_path_factory.mktemp("labelled")
    texts, generator = random_texts(8), random.Random(8)
    for split, count in {"train": 48, "validation": 16, "test": 16}.items():
        rows = [
            {"text": f"{next(texts)} {word}", "label": word} for word in generator.choices(("film", "vote"), k=count)
        ]
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


@pytest.fixture
def settings(base: Path, texts_and_labels: Path) -> Callable[..., FinetuneConfig]:
    """Make settings of a run of a second, with changes."""

    def make(**changes: Any) -> FinetuneConfig:
        values = {
            "task": "text-classification",
            "model": str(base),
            "data": str(texts_and_labels),
            "max_length": 48,
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": [],
        }
        return load_config(flags={**values, **changes})

    return make
