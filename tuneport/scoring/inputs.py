"""From the columns of a file to the model's inputs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.errors import DataError, InputError
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Manifest
from tuneport.tasks import task_spec

AUDIO = "audio"


@dataclass(frozen=True)
class InputColumns:
    """The columns that an input is made of."""

    forms: tuple[tuple[str, ...], ...]
    """Sets of fields that make an input, in order of preference."""
    names: dict[str, str]
    """Field → column of the file."""

    @property
    def read(self) -> tuple[str, ...]:
        """All columns that an input may be made of."""
        return tuple(dict.fromkeys(self.names[name] for form in self.forms for name in form))

    def of(self, available: Iterable[str]) -> tuple[str, ...]:
        """Return those of the columns that a file has."""
        has = set(available)
        return tuple(column for column in self.read if column in has)

    def check(self, available: Iterable[str], file: str) -> None:
        """Raise DataError if a file's columns make no input."""
        has = list(available)
        missing = [[self.names[name] for name in form if self.names[name] not in has] for form in self.forms]
        if all(missing):
            names = " and ".join(map(repr, missing[0]))
            shown = ", ".join(map(repr, has[:20])) or "none"
            field = next(name for name in self.forms[0] if self.names[name] in missing[0])
            raise DataError(f"{file} has no column {names}, only {shown}", f"rename with --columns {field}=YOUR_COLUMN")

    def input_of(self, fields: Mapping[str, Any], task: RuntimeTask) -> Any:
        """Return the model's input for a row, in the shape of `POST /predict`; raises InputError if it has none."""
        for form in self.forms:
            values = {name: fields.get(self.names[name]) for name in form}
            if all(value is not None for value in values.values()):
                # A path, which a request could not give.
                return task.read_local(values[AUDIO]) if form == (AUDIO,) else values
        expected = " or ".join(" and ".join(repr(self.names[name]) for name in form) for form in self.forms)
        raise InputError(f"the row has no {expected}", "fill it in")


def input_columns(manifest: Manifest, columns: Mapping[str, str]) -> InputColumns:
    """Return the columns of an artifact's inputs; `columns` renames fields. Raises DataError for an unknown field."""
    forms = _forms(manifest)
    known = list(dict.fromkeys(name for form in forms for name in form))
    if unknown := [name for name in columns if name not in known]:
        raise DataError(f"--columns names {unknown}, and the model's inputs have {known}", "write field=your-column")
    return InputColumns(forms, {name: columns.get(name, name) for name in known})


def _forms(manifest: Manifest) -> tuple[tuple[str, ...], ...]:
    """Return the sets of fields that make an input of an artifact."""
    spec, processing = task_spec(manifest.task), manifest.processing
    fields = spec.input_fields or ((AUDIO,) if spec.has_local_paths else spec.columns)
    forms = [fields]
    if processing.accepts_pairs and spec.accepts_pairs:
        pair = (*fields, "text_pair")
        forms = [pair, fields] if processing.accepts_single_texts else [pair]
    if spec.reads_words:
        forms.append(("tokens",))
    if spec.is_chat:
        forms.append(("messages",))
    return tuple(forms)
