"""Split text into words as data for named entity recognition has them: U.S and well-known stay whole."""

import re
import unicodedata
from collections.abc import Iterator

from tuneport.scripts import CHARACTER, UNSPACED

# Each character of a script without spaces is a word, as in data sets of these languages.
_WORD = re.compile(rf"{CHARACTER}|[^\W{UNSPACED}]+(?:[^\w\s]+[^\W{UNSPACED}]+)*|[^\w\s]")


def split_words(text: str) -> list[tuple[int, int]]:
    """Return the characters of each word as (start, end), end exclusive, in order."""
    return list(iter_words(text))


def iter_words(text: str) -> Iterator[tuple[int, int]]:
    """Yield the words of `split_words`; a combining mark at a word's end, such as a vowel of Hindi, is part of it."""
    word: tuple[int, int] | None = None
    for match in _WORD.finditer(text):
        start, end = match.span()
        if word and word[1] == start and unicodedata.category(text[start]).startswith("M"):
            word = word[0], end
            continue
        if word:
            yield word
        word = start, end
    if word:
        yield word
