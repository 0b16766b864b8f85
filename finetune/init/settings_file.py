"""Writes the settings file: TOML whose comments say what was found and what each setting means."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from tuneport.errors import TuneportError

from ..config import FinetuneConfig
from ..toml import to_toml
from .describe import Description

WIDTH = 100
SHOWN_LABELS = 20
DEFAULTS = ("num_train_epochs", "learning_rate", "per_device_train_batch_size", "strategy", "seed")
"""Settings that are worth a line with their default."""


def write_settings(description: Description, out: Path, *, overwrite: bool) -> None:
    """Write the file; raises TuneportError if it is there already, or cannot be written."""
    if out.exists() and not (overwrite and out.is_file()):
        raise TuneportError(f"{out} exists", "choose another --out, or give --overwrite")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join(settings_lines(description, out)) + "\n", encoding="utf-8")
    except OSError as error:
        raise TuneportError(f"{out} cannot be written ({error.strerror})", "choose another --out") from error


def settings_lines(description: Description, out: Path) -> Iterator[str]:
    """Yield the lines of the file."""
    yield from _comment(f"Written by tuneport init. Run it: tuneport finetune --config {out} --out runs/{out.stem}")
    listed = "tuneport finetune --help lists all of them"
    yield from _comment(f"Settings may be changed here, or with --set KEY=VALUE; {listed}.")
    yield ""
    yield from _comment(f"{description.recognized.task}: {description.recognized.reason}.")
    yield from _comment(f"Rows: {', '.join(f'{name} {count}' for name, count in description.rows.items())}.")
    yield from _comment(_labels(description))
    for warning in description.warnings:
        yield from _comment(f"WARNING: {warning}")
    yield ""
    for name, value in description.given.items():
        yield from _comment(_meaning(name))
        for each in description.lengths:
            if each.setting == name:
                yield from _comment(f"{each.describe()}.")
        yield f"{name} = {to_toml(value)}"
    yield ""
    yield from _comment("Defaults, to be changed:")
    fields = FinetuneConfig.model_fields
    for name in DEFAULTS:
        if name not in description.given:
            yield from _comment(_meaning(name))
            yield f"# {name} = {to_toml(fields[name].default)}"


def _meaning(name: str) -> str:
    return " ".join((FinetuneConfig.model_fields[name].description or "").split())


def _labels(description: Description) -> str:
    """List the labels of train with their rows; empty for a task without labels."""
    counts = description.label_counts.most_common()
    if not counts:
        return ""
    shown = ", ".join(f"{label!r} {count}" for label, count in counts[:SHOWN_LABELS])
    more = f" and {len(counts) - SHOWN_LABELS} more" if len(counts) > SHOWN_LABELS else ""
    return f"{len(counts)} labels in train: {shown}{more}."


def _comment(text: str) -> list[str]:
    """Wrap a text in lines of a comment, without characters that would end it."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return [f"# {line}" for line in textwrap.wrap(printable, WIDTH, break_long_words=False, break_on_hyphens=False)]
