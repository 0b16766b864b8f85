"""Pseudo-labels: a trained model's confident predictions on unlabelled text become rows of train.

Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method" (2013).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, concatenate_datasets

from export.files import DataError, TuneportError
from finetune.data import Problems, check_strings, read_files, with_string_labels
from finetune.session import Prepared, load_trained, make_trainer, outputs_of


def read_unlabelled(prepared: Prepared) -> Dataset:
    """Read every split of `config.pseudo_label_data`, checked, with a stand-in label that nothing looks at.

    The columns are those of train, of the same types but for the label, which is a string. Raises TuneportError for
    another task than single-label classification, DataError for what cannot be read or holds no text.
    """
    config, train = prepared.config, prepared.data.splits["train"]
    if config.task != "text-classification" or "label" not in train.column_names:
        raise TuneportError("pseudo-labels need text-classification with one label a row", "unset pseudo_label_data")
    assert config.pseudo_label_data is not None
    columns = tuple(name for name in train.column_names if name != "label")
    renamed = {name: column for name, column in config.columns.items() if name in columns}
    splits, files = read_files(config.pseudo_label_data, columns=renamed, required=columns, optional=())
    problems = Problems("correct or remove these rows of pseudo_label_data")
    for name, rows in splits.items():
        check_strings(rows, files[name], problems, columns)
    problems.raise_if_any()
    types = Features({name: train.features[name] for name in columns})
    rows = concatenate_datasets([rows.select_columns(list(columns)).cast(types) for rows in splits.values()])
    return rows.add_column("label", [prepared.task.labels[0]] * len(rows)).select_columns(train.column_names)


def with_pseudo_labels(prepared: Prepared, unlabelled: Dataset, teacher: Path, folder: Path) -> Prepared:
    """Add to train the rows of `unlabelled` that the teacher is sure of.

    `teacher` is a checkpoint, `folder` a place for its Trainer's files. Raises DataError if no prediction reaches
    the threshold.
    """
    config, task = prepared.config, prepared.task
    features = task.encode(unlabelled, prepared.processor, train=False)
    trainer = make_trainer(prepared, folder, load_trained(prepared, teacher))
    logits, _, _ = outputs_of(trainer, features)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    confidence = (odds / odds.sum(-1, keepdims=True)).max(-1)
    sure = np.flatnonzero(confidence >= config.pseudo_label_threshold)
    if not len(sure):
        problem = f"no prediction on {config.pseudo_label_data} reaches {config.pseudo_label_threshold}"
        raise DataError(f"{problem}, the surest has {confidence.max():.3f}", "lower pseudo_label_threshold")
    labels = [task.labels[i] for i in logits.argmax(-1)]
    train = with_string_labels(prepared.data.splits["train"])
    named = unlabelled.remove_columns("label").add_column("label", labels).select_columns(train.column_names)
    extended = concatenate_datasets([train, named.select(sure).cast(train.features)])
    return replace(
        prepared,
        data=replace(prepared.data, splits={**prepared.data.splits, "train": extended}),
        features={**prepared.features, "train": task.encode(extended, prepared.processor, train=True)},
    )
