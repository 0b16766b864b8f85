"""Metrics of named entity recognition: the scheme that tags follow, and scores of whole entities, by seqeval.

IOB2   B-PER I-PER O: B begins every entity. Known as BIO.
IOBES  B-PER I-PER E-PER, and S-PER for an entity of one token. Known as BIOES.
IOB1   I-PER I-PER O: a run of one type is an entity; B begins one that follows an entity of its own type directly.
IO     IOB1 without B, as I-PER or as the type alone, PER: adjacent entities of one type count as one entity.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from seqeval.metrics import classification_report
from seqeval.scheme import IOB1, IOB2, IOBES, Tokens

from tuneport.metrics.classification import ClassScore
from tuneport.schema.artifact import TagScheme

OUTSIDE = "O"
"""The tag of tokens outside of entities."""
TYPED = re.compile(r"[BIES]-.+")
PARSERS: dict[TagScheme, Any] = {"IOB2": IOB2, "IOBES": IOBES, "IOB1": IOB1, "IO": IOB1}


@dataclass(frozen=True)
class Entity:
    """Tokens from `start` up to `end`, which is not part of it."""

    type: str
    start: int
    end: int


@dataclass(frozen=True)
class Scheme:
    """A tagging scheme, as the tags of a data set show it."""

    name: TagScheme
    is_typed: bool
    """Whether tags have a letter and a type (B-PER)."""
    has_bare_types: bool
    """Whether tags are types without a letter (PER)."""

    def is_malformed(self, tag: str) -> bool:
        """Tell whether a tag does not belong to the scheme, such as X-PER."""
        return self.is_typed and tag != OUTSIDE and not TYPED.fullmatch(tag)

    def entities(self, tags: Sequence[str]) -> list[Entity]:
        """Find the entities of a sentence; tags that the scheme does not allow, such as I after O in IOB2, are none."""
        found = Tokens(self.with_letters(tags), PARSERS[self.name]).entities
        return [Entity(entity.tag, entity.start, entity.end) for entity in found]

    def with_letters(self, tags: Sequence[str]) -> list[str]:
        """Convert bare types to what seqeval reads: PER becomes I-PER."""
        return [f"I-{tag}" if self.has_bare_types and tag != OUTSIDE else tag for tag in tags]


def detect_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """Detect the scheme from the tags of all sentences of a training set."""
    tags: set[str] = set()
    first_letters: set[str] = set()  # of tags whose type differs from that of the tag before
    for sentence in sentences:
        tags.update(sentence)
        first_letters.update(tag[:1] for before, tag in pairwise([OUTSIDE, *sentence]) if _type(before) != _type(tag))
    is_typed = any(TYPED.fullmatch(tag) for tag in tags)
    has_bare_types = not is_typed and not tags <= {OUTSIDE, *"BIES"}
    letters = set() if has_bare_types else {tag[:1] for tag in tags}
    if letters & {"E", "S"}:
        name: TagScheme = "IOBES"
    elif "B" not in letters:
        name = "IO"
    else:
        name = "IOB2" if "B" in first_letters else "IOB1"
    return Scheme(name, is_typed, has_bare_types)


def _type(tag: str) -> str | None:
    return None if tag == OUTSIDE else tag[2:]


def score_entities(
    expected: list[list[str]], predicted: list[list[str]], scheme: Scheme
) -> tuple[dict[str, float], tuple[ClassScore, ...]]:
    """Compute precision, recall and F1 of the entities of all sentences, and the scores of each entity type.

    An entity is right if its type, its start and its end are (seqeval's strict mode).
    """
    if not any(scheme.entities(tags) for tags in (*expected, *predicted)):
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0}, ()  # seqeval fails without entities
    report = classification_report(
        [scheme.with_letters(tags) for tags in expected],
        [scheme.with_letters(tags) for tags in predicted],
        mode="strict",
        scheme=PARSERS[scheme.name],
        output_dict=True,
        zero_division=0,
    )
    scores = [
        ClassScore(
            label=name,
            precision=float(score["precision"]),
            recall=float(score["recall"]),
            f1=float(score["f1-score"]),
            support=int(score["support"]),
        )
        for name, score in report.items()
    ]
    overall = next(score for score in scores if score.label == "micro avg")
    metrics = {"precision": overall.precision, "recall": overall.recall, "f1": overall.f1}
    return metrics, tuple(score for score in scores if not score.label.endswith(" avg"))


def tag_accuracy(expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Compute the share of right tags over all tokens, those outside of entities included."""
    pairs = [pair for sentences in zip(expected, predicted, strict=True) for pair in zip(*sentences, strict=True)]
    return sum(right == tag for right, tag in pairs) / len(pairs)
