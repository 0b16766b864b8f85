"""Recognizes the task of labelled data, and which of its columns are the task's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tuneport.errors import DataError
from tuneport.tasks import task_spec

from .columns import Column

TEXT = ("text", "sentence", "review", "reviewtext", "content", "body", "message", "comment", "tweet", "post", "query",
        "utterance", "document", "headline", "title", "description")  # fmt: skip
PAIRS = (("text", "textpair"), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("text1", "text2"),
         ("texta", "textb"), ("question1", "question2"), ("query", "passage"))  # fmt: skip
LABEL = ("label", "labels", "class", "category", "sentiment", "intent", "topic", "target", "stars", "rating", "emotion")
SCORE = ("score", "similarity", "similarityscore", "value", "rating", "label", "y")
TOKENS, TAGS = ("tokens", "words"), ("tags", "nertags", "labels", "ner", "postags")
CONTEXT, QUESTION = ("context", "passage", "paragraph", "document"), ("question", "query")
SOURCES = (("source", "target"), ("src", "tgt"), ("input", "output"), ("document", "summary"), ("article", "summary"),
           ("article", "highlights"), ("text", "summary"), ("dialogue", "summary"), ("text", "translation"),
           ("source", "translation"))  # fmt: skip
TRANSCRIPT = ("target", "transcription", "transcript", "text", "sentence")
LANGUAGES = ("ar", "cs", "da", "de", "el", "en", "es", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko", "nl", "pl",
             "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh")  # fmt: skip
SUMMARY_SHARE = 0.6
"""A target of fewer characters than this share of its source is taken for a summary."""


@dataclass(frozen=True)
class Recognized:
    """A task and its columns in the data."""

    task: str
    columns: Mapping[str, str]
    """Column of the task → column of the data, of all that are used."""
    reason: str
    """Why, in a phrase."""

    @property
    def renamed(self) -> dict[str, str]:
        """The columns whose names differ."""
        return {name: column for name, column in self.columns.items() if name != column}


Recognizer = Callable[[Sequence[Column]], Recognized | None]


def recognize(columns: Sequence[Column], task: str | None, source: str) -> Recognized:
    """Recognize the task, or the columns of the task that the user named; raises DataError if nothing fits."""
    fitting = [found for each in RECOGNIZERS if (found := each(columns))]
    for found in fitting:
        if {task, found.task} == {"translation", "summarization"}:  # which of them, the user knows
            return replace(found, task=str(task))
        if task in (None, found.task):
            return _with_alternative(found, fitting) if task is None else found
    if task is not None and (found := _by_names(columns, task)):
        return found
    has = ", ".join(f"{column.name} ({column.kind})" for column in columns) or "no columns"
    if task is None:
        remedy = (
            "name them: --task T --columns text=YOUR_COLUMN,label=YOUR_COLUMN; tuneport finetune --help lists tasks"
        )
        raise DataError(f"the columns of {source} fit no task: {has}", remedy)
    remedy = f"name them with --columns; the task has {task_spec(task).column_help}"
    raise DataError(f"the columns of {source} do not fit {task}: {has}", remedy)


def _by_names(columns: Sequence[Column], task: str) -> Recognized | None:
    """Return the columns that have the names of a task's, for one that a package brings; None if one is missing."""
    spec, names = task_spec(task), {column.name for column in columns}
    found = {name: name for name in (*spec.columns, *spec.optional_columns) if name in names}
    if not found or not set(spec.columns) <= names:
        return None
    return Recognized(task, found, "the columns have its names")


def _with_alternative(found: Recognized, fitting: Sequence[Recognized]) -> Recognized:
    """Name another task in the reason, where another column is a label or a score as well."""
    choices = ("text-classification", "regression")
    for other in fitting:
        target = list(other.columns.values())[-1]
        if {found.task, other.task} == {*choices} and target != list(found.columns.values())[-1]:
            return replace(found, reason=f"{found.reason}; --task {other.task} would take {target}")
    return found


def chat(columns: Sequence[Column]) -> Recognized | None:
    """Recognize messages with roles."""
    messages = _of_kind(columns, "messages")
    if not messages:
        return None
    return Recognized("text-generation", {"messages": messages[0].name}, f"{messages[0].name} holds roles and contents")


def tagged(columns: Sequence[Column]) -> Recognized | None:
    """Recognize words with their tags: two columns of lists of strings."""
    lists = _of_kind(columns, "strings")
    tokens, tags = _named(lists, TOKENS), _named(lists, TAGS)
    if not tokens or not tags:
        return None
    found = {"tokens": tokens.name, "tags": tags.name}
    return Recognized("token-classification", found, f"{tokens.name} and {tags.name} are lists of strings")


def answered(columns: Sequence[Column]) -> Recognized | None:
    """Recognize questions on a context, with answers in SQuAD's form."""
    answers, texts = _of_kind(columns, "answers"), _of_kind(columns, "string")
    context, question = _named(texts, CONTEXT), _named(texts, QUESTION)
    if not answers or not context or not question:
        return None
    found = {"context": context.name, "question": question.name, "answers": answers[0].name}
    return Recognized("question-answering", found, f"{answers[0].name} holds text and answer_start")


def spoken(columns: Sequence[Column]) -> Recognized | None:
    """Recognize paths of audio files with their transcripts."""
    audio, text = _of_kind(columns, "audio"), _named(_of_kind(columns, "string"), TRANSCRIPT)
    if not audio or not text:
        return None
    found = {"audio": audio[0].name, "target": text.name}
    return Recognized("automatic-speech-recognition", found, f"{audio[0].name} holds paths of audio files")


def rewritten(columns: Sequence[Column]) -> Recognized | None:
    """Recognize a text with the text to generate: a translation, or a summary if it is much shorter."""
    texts = {column.key: column for column in _of_kind(columns, "string")}
    pairs = [*SOURCES, *((first, second) for first in texts for second in texts if first != second)]
    for first, second in pairs:
        languages = first in LANGUAGES and second in LANGUAGES
        if first in texts and second in texts and (languages or (first, second) in SOURCES):
            source, target = texts[first], texts[second]
            share = target.mean_length / max(source.mean_length, 1)
            is_summary = second in ("summary", "highlights") or (not languages and share < SUMMARY_SHARE)
            found = {"source": source.name, "target": target.name}
            reason = f"{target.name} has {share:.0%} of the characters of {source.name}"
            return Recognized("summarization" if is_summary else "translation", found, reason)
    return None


def with_several_labels(columns: Sequence[Column]) -> Recognized | None:
    """Recognize texts with lists of labels."""
    texts, others = _texts(columns)
    lists = _of_kind(others, "strings", "integers")
    chosen = _named(lists, ("labels", "label")) or _only(lists)
    if not texts or not chosen:
        return None
    return Recognized("text-classification", {**texts, "labels": chosen.name}, f"{chosen.name} holds lists of labels")


def with_label(columns: Sequence[Column]) -> Recognized | None:
    """Recognize texts or pairs with a column that is named as a label."""
    return _classified(columns, lambda others: _named(_of_kind(others, "string", "integer"), LABEL))


def with_fractions(columns: Sequence[Column]) -> Recognized | None:
    """Recognize texts or pairs with a score: fractions, or numbers in a column of that name."""
    return _scored(
        columns,
        lambda others: (
            _named(_of_kind(others, "fraction", "fractions"), SCORE)
            or _named(_of_kind(others, "integer"), ("score", "similarity", "similarityscore"))
            or _only(_of_kind(others, "fraction", "fractions"))
        ),
    )


def with_classes(columns: Sequence[Column]) -> Recognized | None:
    """Recognize texts or pairs with one column whose values repeat as those of a label do."""
    return _classified(columns, lambda others: _only([column for column in others if column.looks_like_classes]))


def with_numbers(columns: Sequence[Column]) -> Recognized | None:
    """Recognize texts with whole numbers, which are scores only if the user says so."""
    columns = [column for column in columns if not column.numbers_rows]
    return _scored(columns, lambda others: _named(whole := _of_kind(others, "integer"), SCORE) or _only(whole))


def _classified(columns: Sequence[Column], choose: Callable[[list[Column]], Column | None]) -> Recognized | None:
    texts, others = _texts(columns)
    label = choose(others)
    if not texts or not label:
        return None
    reason = f"{label.name} has {label.distinct} different values in {label.rows} rows"
    return Recognized("text-classification", {**texts, "label": label.name}, reason)


def _scored(columns: Sequence[Column], choose: Callable[[list[Column]], Column | None]) -> Recognized | None:
    texts, others = _texts(columns)
    score = choose(others)
    if not texts or not score:
        return None
    return Recognized("regression", {**texts, "score": score.name}, f"{score.name} holds numbers")


def plain(columns: Sequence[Column]) -> Recognized | None:
    """Recognize texts alone."""
    columns = [column for column in columns if not column.numbers_rows]
    texts = _of_kind(columns, "string")
    chosen = texts[0] if len(texts) == len(columns) == 1 else _named(texts, ("text",))
    if not chosen:
        return None
    return Recognized("text-generation", {"text": chosen.name}, f"{chosen.name} is text, and nothing is labelled")


RECOGNIZERS: tuple[Recognizer, ...] = (
    chat, tagged, answered, spoken, rewritten, with_several_labels, with_label, with_fractions, with_classes,
    with_numbers, plain,
)  # fmt: skip
"""The most specific first."""


def _texts(columns: Sequence[Column]) -> tuple[dict[str, str], list[Column]]:
    """Find the column of texts, or the two columns of pairs; returns them, {} without any, and the other columns."""
    strings = _of_kind(columns, "string")
    by_key = {column.key: column.name for column in strings}
    found: dict[str, str] = {}
    for first, second in reversed(PAIRS):
        if first in by_key and second in by_key:
            found = {"text": by_key[first], "text_pair": by_key[second]}
    if not found:
        free = [column for column in strings if not column.looks_like_classes] or strings
        chosen = _named(strings, TEXT) or max(free, key=lambda column: column.mean_length, default=None)
        found = {"text": chosen.name} if chosen else {}
    return found, [column for column in columns if column.name not in found.values()]


def _named(columns: Sequence[Column], names: Sequence[str]) -> Column | None:
    """Find the column with one of the names, the first of `names` first."""
    by_key = {column.key: column for column in reversed(columns)}
    return next((by_key[name] for name in names if name in by_key), None)


def _only(columns: Sequence[Column]) -> Column | None:
    return columns[0] if len(columns) == 1 else None


def _of_kind(columns: Sequence[Column], *kinds: str) -> list[Column]:
    return [column for column in columns if column.kind in kinds]
