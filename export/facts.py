"""What training knew of its data: recorded by the run, else found in labelled data or named by the user."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from tuneport.data.reader import Data, read_data
from tuneport.data.rows import numbered_rows
from tuneport.data.targets import TARGET_COLUMNS
from tuneport.errors import CheckpointError, DataError
from tuneport.schema.artifact import Processing
from tuneport.schema.run import ProblemType, Run, TagScheme
from tuneport.tags import OUTSIDE, TagError, detect_scheme, possible_schemes
from tuneport.tasks import task_spec

from .config import ExportConfig

TAGGING = "token-classification"


@dataclass(frozen=True)
class Facts:
    """Facts of the training data that a model's configuration need not have."""

    accepts_pairs: bool = False
    """Whether inputs are pairs of texts."""
    accepts_single_texts: bool = False
    """Whether inputs may be single texts as well as pairs, of a model with one output and without data."""
    problem_type: ProblemType | None = None
    """Of text classification and regression; None: transformers' default for the number of labels."""
    tag_scheme: TagScheme | None = None
    """Of token classification."""

    @classmethod
    def of(cls, record: Run | Processing) -> Self:
        """Return the facts that a run or an artifact records."""
        single = isinstance(record, Processing) and record.accepts_single_texts
        return cls(record.accepts_pairs, single, record.problem_type, record.tag_scheme)


def check_run_facts(run: Run, config: ExportConfig) -> None:
    """Raise a CheckpointError if the user names another tag scheme than that of the run."""
    if config.tag_scheme not in (None, run.tag_scheme):
        problem = f"{config.checkpoint} was trained on {run.tag_scheme or 'no'} tags, and --tag-scheme names another"
        raise CheckpointError(problem, "leave out --tag-scheme")


def find_facts(config: ExportConfig, task: str, labels: Sequence[str], declared: ProblemType | None) -> Facts:
    """Find the facts of a checkpoint that was trained elsewhere; `declared` is what its configuration says.

    Raises CheckpointError for tags whose scheme neither the labels nor the data tell.
    """
    spec = task_spec(task)
    if config.tag_scheme and task != TAGGING:
        raise CheckpointError(f"{task} has no tags, and --tag-scheme names their scheme", "leave out --tag-scheme")
    needs_data = spec.accepts_pairs or task == TAGGING
    data = None
    if config.data is not None and needs_data:
        data = read_data(
            config.data,
            columns=config.columns,
            required=spec.columns,
            optional=spec.optional_columns,
            seed=config.seed,
            splits=config.splits,
            hidden=TARGET_COLUMNS if config.unlabelled else None,
        )
    columns_of_data = _columns(config, data) if data else set()
    has_lists = "labels" in columns_of_data and "label" not in columns_of_data
    may_be_reranker = spec.accepts_pairs and config.data is None and len(labels) == 1
    return Facts(
        accepts_pairs="text_pair" in columns_of_data or may_be_reranker,
        accepts_single_texts=may_be_reranker,
        problem_type=declared or ("multi_label_classification" if has_lists else None),
        tag_scheme=_find_scheme(config, labels, data) if task == TAGGING else None,
    )


def _columns(config: ExportConfig, data: Data) -> set[str]:
    """Return the task's columns that the data has: those of targets, too, where they are not read."""
    read = set(next(iter(data.splits.values())).column_names)
    hidden = TARGET_COLUMNS if config.unlabelled else ()
    return read | {name for name in hidden if config.columns.get(name, name) in data.columns}


def _find_scheme(config: ExportConfig, labels: Sequence[str], data: Data | None) -> TagScheme:
    """Return the scheme: the one that the user names, the only one of these labels, or the data's."""
    if config.tag_scheme:
        return config.tag_scheme
    try:
        names = possible_schemes(labels)
    except TagError as error:
        problem = f"{config.checkpoint} has labels of no tag scheme ({error})"
        raise CheckpointError(problem, "correct id2label in config.json") from error
    if len(names) == 1:
        return names[0]
    tags = [tags for _, tags in _tags(data)] if data and not config.unlabelled else []
    if not any(tag != OUTSIDE for sentence in tags for tag in sentence):
        problem = f"the labels of {config.checkpoint} are those of {' and of '.join(names)}"
        remedy = "name the scheme with --tag-scheme"
        raise CheckpointError(problem, remedy if config.unlabelled else f"{remedy}, or give labelled data with --data")
    try:
        found = detect_scheme(tags).name
    except TagError as error:
        assert data is not None
        place = next(place for place, sentence in _tags(data) if error.tag in sentence)
        raise DataError(f"{place}: {error}", "write all tags in the scheme of the model") from error
    return found if found in names else "IOB1"  # without any B, entities begin with I


def _tags(data: Data) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the tags of each row of every split, without values that are no tags."""
    for split, rows in data.splits.items():
        for number, row in numbered_rows(rows.select_columns("tags")):
            if isinstance(row["tags"], list):
                yield f"{data.files[split]} row {number}", [tag for tag in row["tags"] if isinstance(tag, str)]
