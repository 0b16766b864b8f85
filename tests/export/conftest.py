"""One conversion of the tiny classifier that the tests of gate and variants share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kit.data import write_data
from kit.encoders import build_checkpoint
from kit.exports import Prepared, prepare, quick_exports
from transformers import AutoModelForSequenceClassification


@pytest.fixture
def _quick_export() -> Iterator[None]:
    with quick_exports():
        yield


@pytest.fixture(scope="session")
def prepared(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The tiny classifier, converted."""
    return prepare(tmp_path_factory.mktemp("prepared"), tiny_checkpoint, tiny_data)


@pytest.fixture(scope="session")
def prepared_outlier(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A classifier with one hidden value that dwarfs the others, converted: one scale fits them badly."""
    folder = tmp_path_factory.mktemp("outlier")
    checkpoint, data = folder / "checkpoint", folder / "data"
    build_checkpoint(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.output.dense.weight *= 4
        layer.intermediate.dense.weight[3] *= 1e4
        layer.output.dense.weight[:, 3] /= 1e4
    model.save_pretrained(checkpoint)
    data.mkdir()
    write_data(data, checkpoint, margin=0.2)
    (folder / "export").mkdir()
    return prepare(folder / "export", checkpoint, data)
