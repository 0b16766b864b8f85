"""Token classification: named entities, as sequences of tagged words with their characters in the text.

A word's tag is that of its first token, as in training. A longer text is read in overlapping windows, and a word's tag
comes from the window in which it is farthest from an end.
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
from tuneport.tags import OUTSIDE, Scheme, scheme_of_tags


class Parameters(inputs.Parameters):
    """The `parameters` of a request."""

    threshold: float = Field(default=0.0, ge=0, le=1)
    """Omit entities below this score."""


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
    """Indices of words, `end` exclusive."""
    scores: list[float]


class Task(RuntimeTask):
    """Reads texts, or lists of words, and converts logits (tokens, labels) to entities."""

    parameters: ClassVar = Parameters
    per_token: ClassVar = True

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: TextTokenizer) -> None:
        """Keep what decoding needs."""
        self._labels = labels
        self._scheme = scheme_of_tags(processing.tag_scheme or "BIO", labels)
        self._tokenizer = tokenizer

    def parse_input(self, value: Any) -> Sentence:
        """Check one input: a string, an object with `text`, or one with `tokens`, the words of a text."""
        if isinstance(value, dict) and set(value) == {"tokens"}:
            return _sentence_of_words(value["tokens"])
        text = inputs.read_text(value, accepts_pairs=False)
        assert isinstance(text, str)
        return Sentence(text, split_words(text))

    def encode(self, parsed_inputs: Sequence[Sentence]) -> list[list[EncodedInput]]:
        """Return the windows of each text."""
        return self._tokenizer.windows(
            [[sentence.text[start:end] for start, end in sentence.words] for sentence in parsed_inputs]
        )

    def decode(
        self,
        parsed_input: Sentence,
        rows: Sequence[EncodedInput],
        outputs: Sequence[RowOutputs],
        parameters: Parameters,
    ) -> list[dict[str, Any]]:
        """Return `{"entity", "score", "start", "end", "text"}` for each entity; the score is its words' mean."""
        predictions = []
        for entity in _entities(*self._tag(parsed_input, rows, outputs), self._scheme):
            start, end = parsed_input.words[entity.start][0], parsed_input.words[entity.end - 1][1]
            mean, text = score(np.mean(entity.scores)), parsed_input.text[start:end]
            if mean >= parameters.threshold:
                predictions.append({"entity": entity.type, "score": mean, "start": start, "end": end, "text": text})
        return predictions

    def tags(self, parsed_input: Sentence, rows: Sequence[EncodedInput], outputs: Sequence[RowOutputs]) -> list[str]:
        """Return the tag of each word, in the data's scheme, for the metric."""
        return self._tag(parsed_input, rows, outputs)[0]

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Compare the types and positions of entities."""
        ours, theirs = ([(e["entity"], e["start"], e["end"]) for e in entities] for entities in (prediction, other))
        return ours == theirs

    def _tag(
        self, parsed_input: Sentence, rows: Sequence[EncodedInput], outputs: Sequence[RowOutputs]
    ) -> tuple[list[str], list[float]]:
        """Return tag and probability of each word; a word without tokens belongs to no entity."""
        count = len(parsed_input.words)
        tags, scores, margins = [OUTSIDE] * count, [0.0] * count, [-1] * count
        for row, output in zip(rows, outputs, strict=True):
            probabilities = softmax(output["logits"])
            for position, word in _first_tokens(row):
                margin = min(position, len(row) - 1 - position)
                if margin > margins[word]:
                    best = int(probabilities[position].argmax())
                    tags[word], scores[word] = self._labels[best], float(probabilities[position][best])
                    margins[word] = margin
        return tags, scores


def _first_tokens(row: EncodedInput) -> Iterator[tuple[int, int]]:
    """Yield, for each word that begins in a window, the position of its first token and its index.

    A window may begin inside of a word, whose first token is then in the window before.
    """
    assert row.encoding is not None
    previous: int | None = None
    for position, (word, offset) in enumerate(zip(row.encoding.word_ids, row.encoding.offsets, strict=True)):
        if word is not None and word != previous and offset[0] == 0:
            yield position, word
        previous = word


def _entities(tags: Sequence[str], scores: Sequence[float], scheme: Scheme) -> list[_Entity]:
    """Join tagged words to entities; leniently: an I tag without a B tag before it starts an entity."""
    entities: list[_Entity] = []
    is_open = False
    for i, (tag, probability) in enumerate(zip(tags, scores, strict=True)):
        if tag == OUTSIDE:
            is_open = False
            continue
        letter, kind = scheme.split(tag)
        if is_open and letter in "IEL" and entities[-1].type == kind:
            entities[-1].end = i + 1
            entities[-1].scores.append(probability)
        else:
            entities.append(_Entity(kind, i, i + 1, [probability]))
        is_open = letter not in "ESLU"
    return entities


def _sentence_of_words(words: Any) -> Sentence:
    """Return the sentence that joins words with spaces; raises InputError if it is not a list of words."""
    if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
        raise InputError('"tokens" is not a list of words', 'send {"tokens": ["Anna", "lives", …]}')
    spans, start = [], 0
    for word in words:
        inputs.check_text(word, "tokens")
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return Sentence(" ".join(words), spans)
