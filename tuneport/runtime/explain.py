"""Explain a label by occlusion: how much of its probability is lost when a word is hidden.

Each word's tokens are replaced by the mask token, one word at a time, and these rows run in the same batches as all
others. Masking keeps the row's length: words beyond the truncation don't move in, positions stay, and the rows need no
padding; and models pretrained with masks know such inputs (Zeiler & Fergus 2014 occlude images like this, Li et al.
2016 erase words). For a model without a mask token the word's tokens are removed.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tuneport.runtime.batch import EncodedInput, Output
from tuneport.runtime.tokenizer import Text, TextTokenizer
from tuneport.runtime.words import iter_words

MAX_PIECES = 128
"""Rows that an explanation adds, at most (one more for a pair); beyond it, neighbouring words are hidden together."""
MASKS = ("[MASK]", "<mask>")
FIELDS = ("text", "text_pair")


@dataclass(frozen=True)
class Piece:
    """A word, or neighbouring words, of the text that the model received."""

    field: int
    """0 for the text, 1 for its pair."""
    start: int
    end: int
    positions: tuple[int, ...]
    """Positions of its tokens in the row."""


def mask_id(tokenizer: TextTokenizer) -> int | None:
    """Return the id of the mask token; None for a vocabulary without one."""
    return next((token_id for token in MASKS if (token_id := tokenizer.id_of(token)) is not None), None)


def pieces(parsed_input: Text, row: EncodedInput) -> list[Piece]:
    """Return the words of a text, or of both texts of a pair, that have tokens in the row."""
    texts = (parsed_input,) if isinstance(parsed_input, str) else parsed_input
    words = [(field, *span) for field, text in enumerate(texts) for span in _words_before(text, _end(row, field))]
    positions: list[list[int]] = [[] for _ in words]
    last_word = list(range(len(words)))
    for position, first, last in _words_of_tokens(row, words):
        positions[first].append(position)
        last_word[first] = max(last_word[first], last)
    words_with_tokens = [index for index, found in enumerate(positions) if found]
    result = []
    for index, following in pairwise([*words_with_tokens, len(words)]):
        # A token may span words that have no tokens of their own, such as Chinese characters, which are words here.
        end = words[min(last_word[index], following - 1)][2]
        result.append(Piece(words[index][0], words[index][1], end, tuple(positions[index])))
    size = -(-len(result) // MAX_PIECES)
    return [
        piece
        for field in range(len(texts))
        for piece in _join_neighbours([each for each in result if each.field == field], size)
    ]


def occlusions(row: EncodedInput, hidden: Sequence[Piece], mask: int | None) -> list[EncodedInput]:
    """Return a copy of the row for each piece, with that piece hidden."""
    return [_without(row, frozenset(piece.positions), mask) for piece in hidden]


def explanation(
    parsed_input: Text, shown: Sequence[Piece], whole: Output, hidden: Output, label: int
) -> list[dict[str, Any]]:
    """Return `{"text", "start", "end", "score"}` for each piece in the text's order; for pairs also its `field`.

    The score is the probability that `label` loses without the piece; it is negative for a piece that lowers it.
    `whole` has the probabilities (labels,) of the row, `hidden` those without each piece (pieces, labels).
    """
    result = []
    for piece, probabilities in zip(shown, hidden, strict=True):
        text = parsed_input if isinstance(parsed_input, str) else parsed_input[piece.field]
        field = {} if isinstance(parsed_input, str) else {"field": FIELDS[piece.field]}
        loss = round(float(whole[label]) - float(probabilities[label]), 6)
        span = {"text": text[piece.start : piece.end], "start": piece.start, "end": piece.end}
        result.append({**field, **span, "score": loss})
    return result


def _words_of_tokens(row: EncodedInput, words: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield for each token of a word its position, and the indices of the first and last word that it spans."""
    assert row.encoding is not None
    starts, ends = [(field, start) for field, start, _ in words], [(field, end) for field, _, end in words]
    sequences, offsets = row.encoding.sequence_ids, row.encoding.offsets
    for position, (field, (start, end)) in enumerate(zip(sequences, offsets, strict=True)):
        if field is None or end <= start:  # a special token
            continue
        # The first word that ends after the token's start: byte-level tokens begin with the space before their word.
        first, last = bisect_right(ends, (field, start)), bisect_left(starts, (field, end)) - 1
        if first <= last:
            yield position, first, last


def _end(row: EncodedInput, field: int) -> int:
    """Return the character at which a row's last token of a text ends."""
    assert row.encoding is not None
    tokens = zip(row.encoding.sequence_ids, row.encoding.offsets, strict=True)
    return max((end for sequence, (_, end) in tokens if sequence == field), default=0)


def _words_before(text: str, end: int) -> Iterator[tuple[int, int]]:
    """Yield the words that begin before a character."""
    return itertools.takewhile(lambda word: word[0] < end, iter_words(text))


def _join_neighbours(words: Sequence[Piece], size: int) -> list[Piece]:
    """Join each `size` neighbouring words to one piece."""
    groups = [words[first : first + size] for first in range(0, len(words), max(1, size))]
    return [
        Piece(
            group[0].field,
            group[0].start,
            group[-1].end,
            tuple(position for piece in group for position in piece.positions),
        )
        for group in groups
    ]


def _without(row: EncodedInput, positions: frozenset[int], mask: int | None) -> EncodedInput:
    """Return the row with the tokens at some positions masked or, without a mask token, removed."""
    if mask is not None:
        ids = [mask if position in positions else token for position, token in enumerate(row.ids)]
        return EncodedInput(ids, row.type_ids, row.truncated)
    kept = [position for position in range(len(row)) if position not in positions]
    return EncodedInput([row.ids[i] for i in kept], [row.type_ids[i] for i in kept], row.truncated)
