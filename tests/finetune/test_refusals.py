"""What used to fail in the midst of training, or to be ignored, is refused in one line before any."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import random_texts
from tiny import MAX_LENGTH, tiny_encoder, write_splits

from export.files import CheckpointError, DataError
from finetune.config import FinetuneConfig
from finetune.session import load_model, prepare
from finetune.sizes import positions_of

Settings = Callable[..., FinetuneConfig]
TEXTS = random_texts(3)
ROWS: list[dict[str, Any]] = [{"text": next(TEXTS), "label": i % 2} for i in range(20)]
POSITIONS = {"bert": MAX_LENGTH + 2, "roberta": MAX_LENGTH + 1, "deberta-v2": MAX_LENGTH + 2, "xlnet": None}


def _data(folder: Path, train: list[Any], validation: list[Any]) -> str:
    return str(write_splits(folder, train=train, validation=validation))


@pytest.mark.parametrize("column", ["label", "text_pair"])
@pytest.mark.parametrize("lacks", ["train", "validation"])
def test_splits_with_different_columns_are_refused(settings: Settings, tmp_path: Path, column: str, lacks: str) -> None:
    if (column, lacks) == ("label", "train"):
        pytest.skip("train without labels has a message of its own")
    whole = [{**row, "text_pair": "film"} for row in ROWS]
    parts = {"train": whole, "validation": whole}
    parts[lacks] = [{name: value for name, value in row.items() if name != column} for row in whole]
    has = "validation" if lacks == "train" else "train"
    with pytest.raises(DataError) as error:
        prepare(settings(data=_data(tmp_path, **parts)))
    assert str(error.value).startswith(f"{has}.jsonl has a column {column} and {lacks}.jsonl has none; ")


def test_no_label_in_any_row_is_refused(settings: Settings, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "labels": []} for row in ROWS]
    with pytest.raises(DataError, match=r"train\.jsonl has no label in any row; give at least two classes"):
        prepare(settings(data=_data(tmp_path, rows, rows)))


@pytest.mark.parametrize(("family", "limit"), POSITIONS.items())
def test_an_input_beyond_the_positions_is_refused(
    settings: Settings, tmp_path: Path, family: str, limit: int | None
) -> None:
    base = str(tiny_encoder(tmp_path / "base", family))
    length = limit or 1000
    model = load_model(prepare(settings(model=base, max_length=length)))
    assert positions_of(model) == limit
    ids = torch.full((1, length), 7)
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
    if limit is not None:
        longer = settings(model=base, max_length=limit + 1)
        with pytest.raises(CheckpointError, match=f"max_length is {limit + 1} and .* has {limit} positions"):
            load_model(prepare(longer))
        with pytest.raises(CheckpointError, match=f"has {limit} positions"):
            load_model(prepare(longer.model_copy(update={"pooling": "mean"})))


def test_a_prefix_takes_positions(settings: Settings, tmp_path: Path) -> None:
    base = str(tiny_encoder(tmp_path / "base"))
    with pytest.raises(CheckpointError, match=r"max_length \+ num_virtual_tokens is 76 .* has 66 positions"):
        load_model(prepare(settings(model=base, max_length=60, strategy="prefix")))


def test_a_folder_without_a_model_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path} has no config.json"):
        prepare(settings(model=str(tmp_path)))
