"""Pseudo-labels: a trained model's confident predictions on unlabelled text become rows of train.

Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method" (2013).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

from export.files import DataError, TuneportError
from finetune.data import read_data
from finetune.session import Prepared, load_trained, make_trainer, outputs_of


def with_pseudo_labels(prepared: Prepared, teacher: Path, folder: Path) -> Prepared:
    """Add to train the rows of `config.pseudo_label_data` that the teacher is sure of.

    `teacher` is a checkpoint, `folder` a place for its Trainer's files. Raises TuneportError for another task
    than single-label classification, DataError if no prediction reaches the threshold.
    """
    config, task, train = prepared.config, prepared.task, prepared.data.splits["train"]
    if config.task != "text-classification" or "label" not in train.column_names:
        raise TuneportError("pseudo-labels need text-classification with one label a row", "unset pseudo_label_data")
    rows = _unlabelled(prepared)
    features = task.encode(rows, prepared.processor, train=False)
    trainer = make_trainer(prepared, folder, load_trained(prepared, teacher))
    logits, _, _ = outputs_of(trainer, features)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    confidence = (odds / odds.sum(-1, keepdims=True)).max(-1)
    sure = np.flatnonzero(confidence >= config.pseudo_label_threshold)
    if not len(sure):
        problem = f"no prediction on {config.pseudo_label_data} reaches {config.pseudo_label_threshold}"
        raise DataError(f"{problem}, the surest has {confidence.max():.3f}", "lower pseudo_label_threshold")
    labels = [task.labels[i] for i in logits.argmax(-1)]
    is_number = train.features["label"].dtype != "string"
    named = rows.remove_columns("label").add_column("label", [int(n) if is_number else n for n in labels])
    more = named.select(sure).select_columns(train.column_names).cast(train.features)
    extended = concatenate_datasets([train, more])
    return replace(
        prepared,
        data=replace(prepared.data, splits={**prepared.data.splits, "train": extended}),
        features={**prepared.features, "train": task.encode(extended, prepared.processor, train=True)},
    )


def _unlabelled(prepared: Prepared) -> Dataset:
    """Read every split of the unlabelled data, with a stand-in label that nothing looks at."""
    config, train = prepared.config, prepared.data.splits["train"]
    assert config.pseudo_label_data is not None
    columns = tuple(name for name in train.column_names if name != "label")
    renamed = {name: column for name, column in config.columns.items() if name in columns}
    data = read_data(config.pseudo_label_data, columns=renamed, required=columns, optional=(), seed=config.seed)
    rows = concatenate_datasets([data.splits[name] for name in sorted(data.splits)])
    for number, text in enumerate(rows["text"], 1):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{config.pseudo_label_data} row {number}: text is {text!r}", "remove the row")
    return rows.add_column("label", [train[0]["label"]] * len(rows))
