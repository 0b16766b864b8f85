"""What is odd about the data, though not wrong: warnings, which a user reads before training begins."""

from collections import defaultdict

from datasets import Dataset

from finetune.data import BATCH_ROWS, Data, content, rows_of, short
from finetune.tasks import Counts, Task

TARGETS = ("label", "labels", "score", "tags", "answers", "target")
"""Columns that a model is to tell from the others."""


def oddities(data: Data) -> list[str]:
    """Count rows of train that stand in another split, too, and so flatter its metrics, or have another target there.

    A warning for each split and kind.
    """
    whole, inputs = {}, {}
    for name, rows in data.splits.items():
        if name != "train":
            pairs = [_hashes(row) for _, row in rows_of(rows)]
            whole[name], inputs[name] = {row for row, _ in pairs}, {said for _, said in pairs}
    same, other = dict.fromkeys(whole, 0), dict.fromkeys(whole, 0)
    for _, train_row in rows_of(data.splits["train"]):
        row, said = _hashes(train_row)
        for name in whole:
            same[name] += row in whole[name]
            other[name] += row not in whole[name] and said in inputs[name]
    of = f"of train's {len(data.splits['train'])} rows stand in"
    target = next((name for name in TARGETS if name in data.splits["train"].column_names), "")
    found = [f"{count} {of} {data.files[name]}, too" for name, count in same.items() if count]
    found += [f"{count} {of} {data.files[name]} with another {target}" for name, count in other.items() if count]
    return found


def odd_labels(task: Task, file: str) -> list[str]:
    """Name labels with a single row in train, and those that differ in surrounding spaces alone."""
    if not isinstance(task, Counts):
        return []
    alike = defaultdict(list)
    for label in task.labels:
        alike[label.strip()].append(label)
    found = [f"{file} has {short(labels)}, which differ only in spaces" for labels in alike.values() if len(labels) > 1]
    if rare := [label for label in task.labels if task.counts[label] == 1]:
        found.append(f"{file} has {short(rare)} only once, too little to learn it from")
    return found


def cut_rows(data: Data, features: dict[str, Dataset]) -> list[str]:
    """Count the rows that encoding shortened or left out, for tasks that mark them."""
    found = []
    for name, rows in features.items():
        if "cut" in rows.column_names:
            of = f"of {len(data.splits[name])} rows of {data.files[name]}"
            if cut := sum(sum(batch["cut"]) for batch in rows.select_columns("cut").iter(BATCH_ROWS)):
                found.append(f"{cut} {of} are longer than the settings allow and were cut")
            if left_out := len(data.splits[name]) - len(rows):
                found.append(f"{left_out} {of} were left out: their targets lie beyond max_length")
    return found


def _hashes(row: dict[str, object]) -> tuple[int, int]:
    """Hash a row, and what it has beside its target."""
    return hash(content(row)), hash(content({name: value for name, value in row.items() if name not in TARGETS}))
