"""Adds rows to those of the user's train split: rehearsal of earlier data, and augmented copies."""

from dataclasses import replace
from pathlib import Path

from datasets import Dataset, Value, concatenate_datasets

from tuneport.data.reader import Data, read_data
from tuneport.data.rows import with_string_labels
from tuneport.errors import DataError

from .augmentation.back_translation import back_translate, check_translators
from .augmentation.token_edits import Augmenter
from .config import FinetuneConfig

REHEARSAL = "rehearsal"
"""Split of the earlier rows, until some of them join train."""


def add_rehearsal_split(data: Data, config: FinetuneConfig) -> Data:
    """Add the train rows of `rehearsal_data` as a split of their own, so that the task checks them with the others."""
    if config.rehearsal_data is None:
        return data
    train = data.splits["train"]
    columns = tuple(train.column_names)
    earlier = read_data(config.rehearsal_data, columns=config.columns, required=columns, optional=(), seed=config.seed)
    rows = earlier.splits["train"]
    if "label" in columns and {_label_type(rows), _label_type(train)} == {"int64", "string"}:  # one of them is a CSV
        rows, train = with_string_labels(rows), with_string_labels(train)
    if rows.features.type != train.features.type:
        raise DataError(
            f"{config.rehearsal_data} has columns of other types than {config.data}", "give data of one form"
        )
    file = earlier.files["train"]
    if Path(config.rehearsal_data).is_dir():
        file = f"{config.rehearsal_data} ({file})"
    splits = {**data.splits, "train": train, REHEARSAL: rows}
    return replace(data, splits=splits, files={**data.files, REHEARSAL: file})


def _label_type(rows: Dataset) -> object:
    return rows.features["label"].dtype if isinstance(rows.features["label"], Value) else None


def add_train_rows(data: Data, config: FinetuneConfig) -> Data:
    """Add the rows to train that the settings ask for; validation and test stay as they are."""
    if config.back_translation:
        check_translators(config)
    splits = dict(data.splits)
    train, earlier = splits["train"], splits.pop(REHEARSAL, None)
    if earlier is not None:
        # `rehearsal_ratio` earlier rows for each new one, or all of them if there are fewer.
        count = min(len(earlier), round(len(train) * config.rehearsal_ratio))
        train = concatenate_datasets([train, earlier.shuffle(seed=config.seed).take(count)])
    copies = []
    if augmenter := Augmenter.from_config(config):
        copies.append(augmenter.augment_rows(train))
    if config.back_translation:
        copies.append(back_translate(train, config.back_translation).cast(train.features))
    if copies:  # otherwise train keeps its fingerprint, by which tasks know the file
        train = concatenate_datasets([train, *copies])
    return replace(data, splits={**splits, "train": train})
