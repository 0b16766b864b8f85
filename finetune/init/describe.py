"""Describes a user's data for a settings file: task, columns, rows, labels, lengths, and what to beware of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneport.data.columns import cells_are_no_lists
from tuneport.data.files import LoadedSplit
from tuneport.data.reader import Data
from tuneport.data.rows import canonical_row, numbered_rows
from tuneport.data.sources import load_splits
from tuneport.data.table_rows import first_row_is_data
from tuneport.data.targets import TARGET_COLUMNS
from tuneport.errors import TuneportError
from tuneport.tasks import task_spec

from ..config import FinetuneConfig, load_config
from ..embedded import MODEL, resolve_model
from ..setup import Prepared, prepare, read_rows
from .columns import describe_columns
from .lengths import MAX_LENGTH, Lengths, suggest_lengths
from .recognize import Recognized, recognize
from .scales import find_scale

IMBALANCE = 5.0
"""Rows of the most frequent label for one of the rarest above which classes get weights."""
SMALL = 100
"""Rows of train below which a result depends on chance."""
EXAMPLE_MODELS = {
    "translation": "google-t5/t5-small", "summarization": "google-t5/t5-small",
    "text-generation": "openai-community/gpt2", "automatic-speech-recognition": "openai/whisper-tiny",
}  # fmt: skip
"""Models of the hub, for the tasks that the embedded encoder cannot do."""


@dataclass(frozen=True)
class Description:
    """What was found of the data, and the settings for it."""

    config: FinetuneConfig
    given: Mapping[str, object]
    """The settings that the file gives, in their order."""
    recognized: Recognized
    rows: Mapping[str, int]
    """Split → rows."""
    files: Mapping[str, str]
    """Split → its name in messages."""
    label_counts: Counter[str]
    lengths: Sequence[Lengths]
    warnings: Sequence[str]


def describe(
    source: str,
    *,
    task: str | None,
    model: str | None,
    columns: Mapping[str, str],
    splits: Mapping[str, str],
    settings: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Description:
    """Recognize task and columns, check every row as a run does, and suggest settings.

    `columns`, `splits` and `settings` (`key=value`) are the user's and outweigh what is recognized. Raises DataError
    for data that a run would refuse, CheckpointError for a model whose tokenizer cannot be loaded.
    """
    if task is not None:
        _check_task(task)
    recognized = _recognize(source, task, columns, splits)
    flags = {
        "task": recognized.task,
        "model": model or _default_model(recognized),
        "data": source,
        "columns": recognized.renamed,
        "splits": dict(splits),
        "trust_remote_code": trust_remote_code or None,
    }
    config = load_config(None, settings, flags)
    suggested, lengths = _suggest(config, {item.partition("=")[0].strip() for item in settings})
    given = {name: value for name, value in flags.items() if value}
    given |= {name: getattr(config, name) for name in config.model_fields_set - given.keys() if getattr(config, name)}
    prepared = prepare(config.model_copy(update=suggested))
    warnings = [*prepared.warnings, *find_imbalance(prepared), *find_repetitions(prepared.data)]
    if task is None and "label" in recognized.columns and "label" not in columns:  # the user did not say so
        warnings += find_scale(prepared.task.label_counts, recognized.columns["label"])
    if "class_weights" not in given and find_imbalance(prepared):
        suggested |= {"class_weights": "balanced"}
    return Description(
        config=load_config(None, settings, {**flags, **suggested}),
        given={**given, **suggested},
        recognized=recognized,
        rows={name: len(rows) for name, rows in prepared.data.splits.items()},
        files=prepared.data.files,
        label_counts=prepared.task.label_counts,
        lengths=lengths,
        warnings=warnings,
    )


def find_imbalance(prepared: Prepared) -> list[str]:
    """Warn of labels that are much rarer than the most frequent one, for tasks whose loss can have weights."""
    counts = prepared.task.label_counts
    if "class_weights" not in prepared.task.spec.settings or not counts:
        return []
    (most, most_rows), (least, least_rows) = counts.most_common()[0], counts.most_common()[-1]
    if most_rows < IMBALANCE * least_rows:
        return []
    return [f"the label {most!r} has {most_rows} rows of train and {least!r} {least_rows}: class_weights is balanced"]


def find_repetitions(data: Data) -> list[str]:
    """Warn of rows that train has twice, of inputs that it has with several targets, and of very few rows."""
    rows, inputs = Counter[int](), dict[int, set[int]]()
    for _, row in numbered_rows(data.splits["train"]):
        whole = hash(canonical_row(row))
        rows[whole] += 1
        question = hash(canonical_row({name: value for name, value in row.items() if name not in TARGET_COLUMNS}))
        inputs.setdefault(question, set()).add(whole)
    file, total = data.files["train"], len(data.splits["train"])
    warnings = []
    if repeated := sum(count - 1 for count in rows.values()):
        warnings.append(f"{repeated} of {total} rows of {file} repeat another row")
    if contradicting := sum(len(targets) > 1 for targets in inputs.values()):
        warnings.append(f"{contradicting} inputs of {file} are there with several targets")
    if total < SMALL:
        warnings.append(f"{file} has {total} rows: results will depend on chance")
    return warnings


def _check_task(name: str) -> None:
    try:
        task_spec(name)
    except ValueError as error:
        problem, _, remedy = str(error).partition(": ")
        raise TuneportError(problem, remedy) from error


def _recognize(source: str, task: str | None, columns: Mapping[str, str], splits: Mapping[str, str]) -> Recognized:
    """Recognize the task from the first split, with the columns that the user named under the task's names."""
    loaded = load_splits(source, None, splits)
    split = loaded.get("train") or loaded["all"]
    if not split.has_header:
        raise first_row_is_data(split.file, split.columns)
    described = describe_columns(split)
    if lists := [column.name for column in described if column.kind == "written list"]:
        raise cells_are_no_lists(split.file, lists)
    names = {column: name for name, column in columns.items()}
    # A column whose name the user gave to another one is hidden by that.
    shown = [column for column in described if column.name in names or column.name not in columns]
    shown = [replace(column, name=names.get(column.name, column.name)) for column in shown]
    _check_named(split, columns)
    found = recognize(shown, task, source)
    return replace(found, columns={name: columns.get(name, column) for name, column in found.columns.items()})


def _check_named(split: LoadedSplit, columns: Mapping[str, str]) -> None:
    if absent := [column for column in columns.values() if column not in split.columns]:
        has = ", ".join(map(repr, split.columns))
        raise TuneportError(f"{split.file} has no column {absent[0]!r}, only {has}", "correct --columns")


def _default_model(recognized: Recognized) -> str:
    """Return the embedded encoder; raises TuneportError for a task that it cannot do."""
    if not task_spec(recognized.task).is_generative:
        return MODEL
    example = EXAMPLE_MODELS.get(recognized.task, "NAME")
    problem = f"{recognized.task} ({recognized.reason}) needs a generative model, and none is embedded"
    raise TuneportError(problem, f"give one, for example --model {example}; or name another --task")


def _suggest(config: FinetuneConfig, fixed: set[str]) -> tuple[dict[str, Any], list[Lengths]]:
    """Check every row, and suggest lengths for those settings that the user did not fix."""
    spec = task_spec(config.task)
    data = read_rows(config)
    wide = config if "max_length" in fixed else config.model_copy(update={"max_length": MAX_LENGTH})
    task = spec.task_class("finetune")(data, wide)
    source = resolve_model(config.model)
    processor = task.load_processor(source)
    lengths = suggest_lengths(spec, data.splits["train"], processor, source, config)
    return {each.setting: each.suggested for each in lengths if each.setting not in fixed}, lengths
