"""Named entities at serving time: runs of tagged words, with their characters in the text.

A word's tag is that of its first token, as in training; a longer text is read in overlapping windows, and a word
counts in the one where it stands farthest from an end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tuneport.errors import InputError
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tasks.text_classification import score, softmax
from tuneport.runtime.tokenizer import TextTokenizer
from tuneport.runtime.words import split_words
from tuneport.schema.artifact import Processing

NO_ENTITY = "O"


class Parameters(inputs.Parameters):
    """What a request may ask for under `parameters`."""

    threshold: float = Field(default=0.0, ge=0, le=1)
    """Leave out entities below this score."""


@dataclass(frozen=True)
class Sentence:
    """A text and the characters of its words."""

    text: str
    words: list[tuple[int, int]]


@dataclass
class _Entity:
    type: str
    start: int
    end: int
    """Words, `end` not included."""
    scores: list[float]


class Task(RuntimeTask):
    """Reads texts, or lists of words, and turns logits (tokens, labels) into entities."""

    parameters: ClassVar = Parameters
    per_token: ClassVar = True

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        """Keep what decoding needs."""
        self._labels = labels
        self._scheme = processing.tag_scheme or "IOB2"
        self._tokenizer = tokenizer

    def parse_input(self, value: Any) -> Sentence:
        """Check one input: a string, an object with `text`, or one with `tokens`, the words of a text."""
        if isinstance(value, dict) and set(value) == {"tokens"}:
            return _of_words(value["tokens"])
        text = inputs.read_text(value, accepts_pairs=False)
        assert isinstance(text, str)
        return Sentence(text, split_words(text))

    def encode(self, sentences: Sequence[Sentence]) -> list[list[EncodedInput]]:
        """Return the windows of each text."""
        return self._tokenizer.windows([[each.text[a:b] for a, b in each.words] for each in sentences])

    def decode(
        self, given: Sentence, rows: Sequence[EncodedInput], results: Sequence[RowOutputs], parameters: Parameters
    ) -> list[dict[str, Any]]:
        """Answer `{"entity", "score", "start", "end", "text"}` for each entity; the score is its words' mean."""
        found = _entities(*self._tag(given, rows, results), self._scheme)
        entities = []
        for each in found:
            start, end = given.words[each.start][0], given.words[each.end - 1][1]
            mean = score(np.mean(each.scores))
            if mean >= parameters.threshold:
                entities.append(
                    {"entity": each.type, "score": mean, "start": start, "end": end, "text": given.text[start:end]}
                )
        return entities

    def tags(self, given: Sentence, rows: Sequence[EncodedInput], results: Sequence[RowOutputs]) -> list[str]:
        """Return the tag of each word, as the data writes them; for the metric."""
        return self._tag(given, rows, results)[0]

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Compare types and places of entities."""
        ours, theirs = ([(e["entity"], e["start"], e["end"]) for e in each] for each in (prediction, other))
        return ours == theirs

    def _tag(
        self, given: Sentence, rows: Sequence[EncodedInput], results: Sequence[RowOutputs]
    ) -> tuple[list[str], list[float]]:
        """Return tag and probability of each word; words of which the tokenizer left nothing are no entity's."""
        tags, scores, margins = [NO_ENTITY] * len(given.words), [0.0] * len(given.words), [-1] * len(given.words)
        for row, result in zip(rows, results, strict=True):
            probabilities = softmax(result["logits"])
            for place, word in _first_tokens(row):
                margin = min(place, len(row) - 1 - place)
                if margin > margins[word]:
                    best = int(probabilities[place].argmax())
                    tags[word], scores[word] = self._labels[best], float(probabilities[place][best])
                    margins[word] = margin
        return tags, scores


def _first_tokens(row: EncodedInput) -> Iterator[tuple[int, int]]:
    """Go through the words that begin in a window: place of the first token, index of the word.

    A window may begin inside of a word, whose first token then stands in the window before.
    """
    assert row.encoding is not None
    before: int | None = None
    for place, (word, offset) in enumerate(zip(row.encoding.word_ids, row.encoding.offsets, strict=True)):
        if word is not None and word != before and offset[0] == 0:
            yield place, word
        before = word


def _entities(tags: Sequence[str], scores: Sequence[float], scheme: str) -> list[_Entity]:
    """Join tagged words; leniently, as an I without its B still means an entity."""
    entities: list[_Entity] = []
    is_open = False
    for i, (tag, probability) in enumerate(zip(tags, scores, strict=True)):
        if tag == NO_ENTITY:
            is_open = False
            continue
        letter, kind = (tag[0], tag[2:]) if tag[1:2] == "-" and tag[0] in "BIES" else ("I", tag)
        if is_open and letter in "IE" and entities[-1].type == kind:
            entities[-1].end = i + 1
            entities[-1].scores.append(probability)
        else:
            entities.append(_Entity(kind, i, i + 1, [probability]))
        is_open = letter not in "ES" or scheme != "IOBES"
    return entities


def _of_words(words: Any) -> Sentence:
    if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
        raise InputError('"tokens" is not a list of words', 'send {"tokens": ["Anna", "lives", …]}')
    places, at = [], 0
    for word in words:
        inputs.check_text(word, "tokens")
        places.append((at, at + len(word)))
        at += len(word) + 1
    return Sentence(" ".join(words), places)
