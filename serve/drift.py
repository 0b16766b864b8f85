"""What predictions tell about drift: their labels, their confidence, and the values of a regression."""

from collections.abc import Iterator
from typing import Any, NamedTuple

NO_LABEL = "(none)"
"""For an input without a label, an entity or an answer, or with one below its threshold."""
ANSWER = "answer"
"""For the answer to a question, whose text would be another label each time."""


class Observation(NamedTuple):
    """A part of a prediction that is counted."""

    label: str | None = None
    """A label, the type of an entity, or why a generated text ended; None for a regression."""
    confidence: float | None = None
    value: float | None = None
    """A score of a regression."""


def observations(prediction: Any, *, has_several_labels: bool = False) -> Iterator[Observation]:
    """Yield what one prediction of `/predict` is counted as.

    Of the candidates that `top_k` asks for only the first one is counted. Of entities, and where a model
    `has_several_labels` for an input, all are.
    """
    items = prediction if isinstance(prediction, list) else [prediction]
    if not items:
        yield Observation(NO_LABEL)
    elif has_several_labels or "entity" in items[0]:
        for item in items:
            yield Observation(item.get("entity", item.get("label")), item["score"])
    else:
        yield from _of_item(items[0])


def _of_item(item: dict[str, Any]) -> Iterator[Observation]:
    if "label" in item:
        yield Observation(NO_LABEL if item["label"] is None else item["label"], item["score"])
    elif "answer" in item:
        yield Observation(ANSWER if item["answer"] else NO_LABEL, item["score"])
    elif "finish_reason" in item:
        yield Observation(item["finish_reason"])
    elif "score" in item:
        for value in item["score"] if isinstance(item["score"], list) else [item["score"]]:
            yield Observation(value=value)


def is_truncated(prediction: Any) -> bool:
    """Tell whether the input of a prediction was truncated."""
    items = prediction if isinstance(prediction, list) else [prediction]
    return any(item.get("truncated") for item in items)
