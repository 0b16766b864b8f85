"""Entities in sequences of tags: the scheme that the tags follow, and scores by whole entities through seqeval.

IOB2   B-PER I-PER O: B begins every entity. Known as BIO.
IOBES  B-PER I-PER E-PER, and S-PER for an entity of one token. Known as BIOES.
IOB1   I-PER I-PER O: a run of one type is an entity, and B only parts it from one of its own type right before it.
IO     IOB1 without B, as I-PER or as the bare type PER: it cannot part such neighbours, and they count as one.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from seqeval.metrics import classification_report
from seqeval.scheme import IOB1, IOB2, IOBES, Tokens

from export.manifest import TagScheme
from finetune.evaluate import ClassScore

OUTSIDE = "O"
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
    """How tags make entities."""

    name: TagScheme
    is_typed: bool
    """Whether tags are a letter and a type (B-PER)."""
    is_bare: bool
    """Whether tags are types without a letter (PER)."""

    def is_malformed(self, tag: str) -> bool:
        """Tell whether a tag is none of this scheme's, such as X-PER beside B-PER."""
        return self.is_typed and tag != OUTSIDE and not TYPED.fullmatch(tag)

    def entities(self, tags: Sequence[str]) -> list[Entity]:
        """Find the entities of a sentence; what the scheme does not allow, such as I after O in IOB2, is none."""
        found = Tokens(self.with_letters(tags), PARSERS[self.name]).entities
        return [Entity(each.tag, each.start, each.end) for each in found]

    def with_letters(self, tags: Sequence[str]) -> list[str]:
        """Write bare types as seqeval reads them: PER becomes I-PER."""
        return [f"I-{tag}" if self.is_bare and tag != OUTSIDE else tag for tag in tags]


def detect_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """Tell from all sentences of a training set which scheme they follow."""
    tags: set[str] = set()
    openers: set[str] = set()
    for sentence in sentences:
        tags.update(sentence)
        openers.update(tag[:1] for before, tag in pairwise([OUTSIDE, *sentence]) if _type(before) != _type(tag))
    is_typed = any(TYPED.fullmatch(tag) for tag in tags)
    is_bare = not is_typed and not tags <= {OUTSIDE, *"BIES"}
    letters = set() if is_bare else {tag[:1] for tag in tags}
    if letters & {"E", "S"}:
        name: TagScheme = "IOBES"
    elif "B" not in letters:
        name = "IO"
    else:
        name = "IOB2" if "B" in openers else "IOB1"
    return Scheme(name, is_typed, is_bare)


def _type(tag: str) -> str | None:
    return None if tag == OUTSIDE else tag[2:]


def score_entities(
    expected: list[list[str]], predicted: list[list[str]], scheme: Scheme
) -> tuple[dict[str, float], tuple[ClassScore, ...]]:
    """Score tags sentence by sentence: precision, recall and F1 over all entities, and for each type.

    An entity counts where its type and both its ends are right (seqeval's strict mode).
    """
    if not any(scheme.entities(tags) for tags in (*expected, *predicted)):
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0}, ()  # seqeval would take the mean of nothing
    right, guessed = ([scheme.with_letters(tags) for tags in sentences] for sentences in (expected, predicted))
    report = classification_report(
        right, guessed, mode="strict", scheme=PARSERS[scheme.name], output_dict=True, zero_division=0
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
