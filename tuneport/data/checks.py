"""Finds problems of the data that are no errors: warnings, which a user reads before training begins."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from datasets import Dataset

from tuneport.data.reader import Data
from tuneport.data.rows import BATCH_ROWS, canonical_row, numbered_rows, preview
from tuneport.data.targets import TARGET_COLUMNS


def find_leakage(data: Data) -> list[str]:
    """Count the rows of train that another split has too, or has with another target.

    The first make the split's metrics too good, the second contradict it. Returns a warning for each split and kind.
    """
    rows_in, inputs_in = {}, {}
    for name, rows in data.splits.items():
        if name != "train":
            hashes = [_hash_row(row) for _, row in numbered_rows(rows)]
            rows_in[name], inputs_in[name] = {row for row, _ in hashes}, {inputs for _, inputs in hashes}
    duplicates, contradictions = dict.fromkeys(rows_in, 0), dict.fromkeys(rows_in, 0)
    for _, train_row in numbered_rows(data.splits["train"]):
        row, inputs = _hash_row(train_row)
        for name in rows_in:
            duplicates[name] += row in rows_in[name]
            contradictions[name] += row not in rows_in[name] and inputs in inputs_in[name]
    total = f"of train's {len(data.splits['train'])} rows are also in"
    target = next((name for name in TARGET_COLUMNS if name in data.splits["train"].column_names), "")
    warnings = [f"{count} {total} {data.files[name]}" for name, count in duplicates.items() if count]
    warnings += [
        f"{count} {total} {data.files[name]} with another {target}" for name, count in contradictions.items() if count
    ]
    return warnings


def find_suspicious_labels(labels: Sequence[str], counts: Mapping[str, int], file: str) -> list[str]:
    """Name labels with a single row in train (`counts`), and those that spaces or upper case make different."""
    by_name = defaultdict(list)
    for label in labels:
        by_name[" ".join(label.casefold().split())].append(label)
    groups = [same for same in by_name.values() if len(same) > 1]
    warnings = [f"{file} has {preview(same)}, which differ only in spaces or case" for same in groups]
    if padded := [same[0] for same in by_name.values() if len(same) == 1 and same[0] != same[0].strip()]:
        warnings.append(f"{file} has {preview(padded)}: spaces are part of a label's name")
    if rare := [label for label in labels if counts.get(label) == 1]:
        warnings.append(f"{file} has {preview(rare)} only once, too little to learn it from")
    return warnings


def count_truncated(data: Data, features: Mapping[str, Dataset]) -> list[str]:
    """Count the rows that encoding truncated or left out, where `features` have a bool column `truncated`."""
    warnings = []
    for name, rows in features.items():
        if "truncated" in rows.column_names:
            total = f"of {len(data.splits[name])} rows of {data.files[name]}"
            if count := sum(sum(batch["truncated"]) for batch in rows.select_columns("truncated").iter(BATCH_ROWS)):
                warnings.append(f"{count} {total} are longer than the settings allow and are truncated")
            if left_out := len(data.splits[name]) - len(rows):
                warnings.append(f"{left_out} {total} were left out: their targets lie beyond max_length")
    return warnings


def _hash_row(row: dict[str, object]) -> tuple[int, int]:
    """Hash a row, and the row without its target."""
    inputs = {name: value for name, value in row.items() if name not in TARGET_COLUMNS}
    whole = {name: _as_read(name, value) for name, value in row.items()}
    return hash(canonical_row(whole)), hash(canonical_row(inputs))


def _as_read(column: str, value: object) -> object:
    """Return a target as training reads it: a number in one split may be a text, or a fraction, in another."""
    if column == "labels" and isinstance(value, list):
        return sorted(map(str, value))
    if column == "label" and value is not None:
        return str(value)
    if column == "score" and isinstance(value, list):
        return [_as_read(column, each) for each in value]
    return float(value) if column == "score" and isinstance(value, int) else value
