"""Rows beyond those of the user's train file: rehearsal of old data, and augmented copies."""

from dataclasses import replace
from pathlib import Path

from datasets import Dataset, Value, concatenate_datasets

from export.files import DataError
from finetune.augment import Augmenter
from finetune.back_translation import check_translators, paraphrases
from finetune.config import FinetuneConfig
from finetune.data import Data, read_data, with_string_labels

REHEARSAL = "rehearsal"
"""The split of old rows, until some of them have joined train."""


def with_rehearsal(data: Data, config: FinetuneConfig) -> Data:
    """Add the old rows as a split of their own, so that the task checks them with the others."""
    if config.rehearsal_data is None:
        return data
    train = data.splits["train"]
    columns = tuple(train.column_names)
    old = read_data(config.rehearsal_data, columns=config.columns, required=columns, optional=(), seed=config.seed)
    rows = old.splits["train"]
    if "label" in columns and {_type(rows), _type(train)} == {"int64", "string"}:  # from a CSV
        rows, train = with_string_labels(rows), with_string_labels(train)
    if rows.features.type != train.features.type:
        raise DataError(
            f"{config.rehearsal_data} has columns of other types than {config.data}", "give data of one form"
        )
    name = f"{config.rehearsal_data} ({old.files['train']})" if Path(config.rehearsal_data).is_dir() else ""
    files = {**data.files, REHEARSAL: name or old.files["train"]}
    return replace(data, splits={**data.splits, "train": train, REHEARSAL: rows}, files=files)


def _type(rows: Dataset) -> object:
    return rows.features["label"].dtype if isinstance(rows.features["label"], Value) else None


def with_more_rows(data: Data, config: FinetuneConfig) -> Data:
    """Add to train what the settings ask for; validation and test stay as they are."""
    if config.back_translation:
        check_translators(config)
    splits = dict(data.splits)
    train, old = splits["train"], splits.pop(REHEARSAL, None)
    if old is not None:
        # `rehearsal_ratio` old rows for each new one, all of them where there are fewer.
        count = min(len(old), round(len(train) * config.rehearsal_ratio))
        train = concatenate_datasets([train, old.shuffle(seed=config.seed).take(count)])
    augmenter = Augmenter.from_config(config)
    if augmenter:
        train = concatenate_datasets([train, augmenter.copies(train)])
    if config.back_translation:
        own = splits["train"]
        train = concatenate_datasets([train, paraphrases(own, config.back_translation).cast(train.features)])
    return replace(data, splits={**splits, "train": train})
