"""One conversion of the tiny classifier, one of a classifier that int8 harms, and a generative model of each family."""

from pathlib import Path

import pytest
import torch
from kit import untrained
from kit.data import write_data
from kit.encoders import build_checkpoint, spread_logits
from kit.exports import Prepared, prepare, reuse_conversion
from kit.generative_exports import Export, Exported, train_and_export
from transformers import AutoModelForSequenceClassification, AutoTokenizer


@pytest.fixture(autouse=True)
def _the_same_rows_in_any_order_of_tests() -> None:
    untrained.generator.seed(5)


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
    spread_logits(model, AutoTokenizer.from_pretrained(checkpoint))
    model.save_pretrained(checkpoint)
    data.mkdir()
    write_data(data, checkpoint)
    (folder / "export").mkdir()
    return prepare(folder / "export", checkpoint, data)


@pytest.fixture
def _reuse_conversion(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exports take torch's outputs and the fp32 graph of `prepared` instead of computing them again."""
    reuse_conversion(prepared, monkeypatch)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Train and export a generative family on first use."""
    done: dict[str, Exported] = {}

    def export_once(family: str) -> Exported:
        if family not in done:
            done[family] = train_and_export(family, tmp_path_factory.mktemp(family))
        return done[family]

    return export_once
