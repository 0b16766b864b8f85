"""Attribution by occlusion: how much of a label's probability goes when a word is hidden.

Each word's tokens are replaced by the mask token, one word at a time, and all these rows run through the same
engine, in the same micro-batches as everyone else's. Masked rather than left out: the row keeps its length, so
words beyond the cut don't slide in, positions stay, rows of an explanation need no padding, and a model that was
pretrained with masks has met such rows (Zeiler & Fergus 2014 occlude images so; Li et al. 2016 erase words).
A model without a mask token gets the row without the word's tokens.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tuneport.runtime.batch import EncodedInput, Output
from tuneport.runtime.tokenizer import Text, TextTokenizer
from tuneport.runtime.words import split_words

MAX_PIECES = 128
"""Rows that an explanation adds, one more for a pair; in a text of more words neighbours are hidden together."""
MASKS = ("[MASK]", "<mask>")
FIELDS = ("text", "text_pair")


@dataclass(frozen=True)
class Piece:
    """A word, or neighbouring words, of a text that the model saw."""

    field: int
    """0 for the text, 1 for its pair."""
    start: int
    end: int
    places: tuple[int, ...]
    """Of its tokens in the row."""


def mask_id(tokenizer: TextTokenizer) -> int | None:
    """Return the id of the mask token; None for a vocabulary without one."""
    return next((found for token in MASKS if (found := tokenizer.id_of(token)) is not None), None)


def pieces(given: Text, row: EncodedInput) -> list[Piece]:
    """Return the words of a text, or of both of a pair, that have tokens in the row."""
    texts = (given,) if isinstance(given, str) else given
    words = [(field, *span) for field, text in enumerate(texts) for span in split_words(text)]
    places: list[list[int]] = [[] for _ in words]
    last = list(range(len(words)))
    for place, first, final in _touched(row, words):
        places[first].append(place)
        last[first] = max(last[first], final)
    own = [at for at, found in enumerate(places) if found]
    seen = []
    for at, following in pairwise([*own, len(words)]):
        # A token may reach over words that have none of their own: Chinese characters are words here.
        end = words[min(last[at], following - 1)][2]
        seen.append(Piece(words[at][0], words[at][1], end, tuple(places[at])))
    size = -(-len(seen) // MAX_PIECES)
    return [piece for field in range(len(texts)) for piece in _joined([p for p in seen if p.field == field], size)]


def occlusions(row: EncodedInput, hidden: Sequence[Piece], mask: int | None) -> list[EncodedInput]:
    """Return the row as often as there are pieces, one of them hidden in each."""
    return [_without(row, frozenset(piece.places), mask) for piece in hidden]


def explanation(given: Text, shown: Sequence[Piece], whole: Output, hidden: Output, label: int) -> list[dict[str, Any]]:
    """Return `{"text", "start", "end", "score"}` for each piece in the text's order; pairs also say which `field`.

    The score is what the probability of `label` loses without the piece, below 0 for one that spoke against it.
    `whole` holds the probabilities (labels,) of the row, `hidden` those without each piece (pieces, labels).
    """
    found = []
    for piece, probabilities in zip(shown, hidden, strict=True):
        text = given if isinstance(given, str) else given[piece.field]
        field = {} if isinstance(given, str) else {"field": FIELDS[piece.field]}
        drop = round(float(whole[label]) - float(probabilities[label]), 6)
        place = {"text": text[piece.start : piece.end], "start": piece.start, "end": piece.end}
        found.append({**field, **place, "score": drop})
    return found


def _touched(row: EncodedInput, words: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Go through the tokens that stand for words: place, first and last word."""
    assert row.encoding is not None
    starts, ends = [(field, start) for field, start, _ in words], [(field, end) for field, _, end in words]
    for place, (field, (start, end)) in enumerate(zip(row.encoding.sequence_ids, row.encoding.offsets, strict=True)):
        if field is None or end <= start:  # a special token
            continue
        # From the first word that ends behind the token's start, as byte-level tokens begin with the space before it.
        first, final = bisect_right(ends, (field, start)), bisect_left(starts, (field, end)) - 1
        if first <= final:
            yield place, first, final


def _joined(words: Sequence[Piece], size: int) -> list[Piece]:
    """Join each `size` neighbours."""
    groups = [words[at : at + size] for at in range(0, len(words), max(1, size))]
    return [
        Piece(group[0].field, group[0].start, group[-1].end, tuple(p for each in group for p in each.places))
        for group in groups
    ]


def _without(row: EncodedInput, places: frozenset[int], mask: int | None) -> EncodedInput:
    if mask is not None:
        return EncodedInput(
            [mask if at in places else each for at, each in enumerate(row.ids)], row.type_ids, row.truncated
        )
    kept = [at for at in range(len(row)) if at not in places]
    return EncodedInput([row.ids[at] for at in kept], [row.type_ids[at] for at in kept], row.truncated)
