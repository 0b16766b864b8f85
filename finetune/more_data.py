"""Rows beyond those of the user's train file: rehearsal of old data, and augmented copies."""

from dataclasses import replace

from datasets import Dataset, concatenate_datasets

from export.files import DataError
from finetune.augment import Augmenter
from finetune.config import FinetuneConfig
from finetune.data import Data, read_data


def with_more_rows(data: Data, config: FinetuneConfig) -> Data:
    """Add to train what the settings ask for; validation and test stay as they are."""
    train = data.splits["train"]
    if config.rehearsal_data:
        train = concatenate_datasets([train, _rehearsal(train, config)])
    augmenter = Augmenter.from_config(config)
    if augmenter:
        train = concatenate_datasets([train, augmenter.copies(train)])
    return replace(data, splits={**data.splits, "train": train})


def _rehearsal(train: Dataset, config: FinetuneConfig) -> Dataset:
    """Draw old train rows, `rehearsal_ratio` for each new one, all of them where there are fewer."""
    assert config.rehearsal_data is not None
    columns = tuple(train.column_names)
    old = read_data(config.rehearsal_data, columns=config.columns, required=columns, optional=(), seed=config.seed)
    rows = old.splits["train"]
    if rows.features.type != train.features.type:
        raise DataError(
            f"{config.rehearsal_data} has columns of other types than {config.data}", "give data of one form"
        )
    count = min(len(rows), round(len(train) * config.rehearsal_ratio))
    return rows.shuffle(seed=config.seed).take(count)
