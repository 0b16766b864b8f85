"""Metrics of named entity recognition: scores of whole entities, by seqeval, in the scheme that the tags follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqeval.metrics import classification_report
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Tokens

from tuneport.metrics.classification import ClassScore
from tuneport.schema.run import TagScheme
from tuneport.tags import OUTSIDE, Scheme

PARSERS: dict[TagScheme, Any] = {"BIO": IOB2, "BIOES": IOBES, "BILOU": BILOU, "IOB1": IOB1, "IO": IOB1}


@dataclass(frozen=True)
class Entity:
    """Tokens from `start` up to `end`, which is not part of it."""

    type: str
    start: int
    end: int


def find_entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """Find the entities of a sentence; tags that the scheme does not allow, such as I after O in BIO, are none."""
    found = Tokens(_with_letters(tags, scheme), PARSERS[scheme.name]).entities
    return [Entity(entity.tag, entity.start, entity.end) for entity in found]


def score_entities(
    expected: list[list[str]], predicted: list[list[str]], scheme: Scheme
) -> tuple[dict[str, float], tuple[ClassScore, ...]]:
    """Compute precision, recall and F1 of the entities of all sentences, and the scores of each entity type.

    An entity is right if its type, its start and its end are (seqeval's strict mode).
    """
    if not any(find_entities(tags, scheme) for tags in (*expected, *predicted)):
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0}, ()  # seqeval fails without entities
    report = classification_report(
        [_with_letters(tags, scheme) for tags in expected],
        [_with_letters(tags, scheme) for tags in predicted],
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


def _with_letters(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Convert bare types to what seqeval reads: PER becomes I-PER."""
    return [f"I-{tag}" if scheme.has_bare_types and tag != OUTSIDE else tag for tag in tags]
