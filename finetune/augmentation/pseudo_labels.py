"""Pseudo-labels: a trained model's confident predictions on unlabelled data become rows of train.

Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method" (2013).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, concatenate_datasets

from tuneport.data.reader import read_files
from tuneport.data.rows import Problems, check_strings, with_string_labels
from tuneport.errors import DataError, TuneportError
from tuneport.schema.run import PseudoLabelled

from ..setup import Prepared, load_trained, make_trainer, predict


def read_unlabelled(prepared: Prepared) -> Dataset:
    """Read and check every split of `config.pseudo_label_data`; each row gets a placeholder as its label.

    The columns are those of train, of the same types, but the label is a string. Raises TuneportError for tasks
    without one label a row, DataError for data that cannot be read or has rows without text.
    """
    config, train = prepared.config, prepared.data.splits["train"]
    if not prepared.has_one_label:
        problem = "pseudo-labels need a task and data with one label a row"
        raise TuneportError(problem, "leave out pseudo_label_data")
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


def add_pseudo_labels(prepared: Prepared, unlabelled: Dataset, teacher: Path, folder: Path) -> Prepared:
    """Add the rows of `unlabelled` to train for which the teacher's prediction reaches the threshold.

    `teacher` is a checkpoint, `folder` the place of its Trainer's files. Raises DataError if there are no such rows.
    """
    config, task = prepared.config, prepared.task
    features = task.encode(unlabelled, prepared.processor, train=False)
    trainer = make_trainer(prepared, folder, load_trained(prepared, teacher))
    logits, _, _ = predict(trainer, features)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    confidence = (odds / odds.sum(-1, keepdims=True)).max(-1)
    confident = np.flatnonzero(confidence >= config.pseudo_label_threshold)
    if not len(confident):
        problem = f"no prediction on {config.pseudo_label_data} reaches {config.pseudo_label_threshold}"
        raise DataError(f"{problem}, the highest is {confidence.max():.3f}", "lower pseudo_label_threshold")
    labels = [task.labels[i] for i in logits.argmax(-1)]
    train = with_string_labels(prepared.data.splits["train"])
    labelled = unlabelled.remove_columns("label").add_column("label", labels).select_columns(train.column_names)
    extended = concatenate_datasets([train, labelled.select(confident).cast(train.features)])
    return replace(
        prepared,
        data=replace(prepared.data, splits={**prepared.data.splits, "train": extended}),
        features={**prepared.features, "train": task.encode(extended, prepared.processor, train=True)},
        pseudo_labelled=PseudoLabelled(joined=len(confident), rows=len(unlabelled)),
    )
