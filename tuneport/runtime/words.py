"""Split text into words as data for named entity recognition has them: U.S and well-known stay whole."""

import re
from collections.abc import Iterator

# Scripts without spaces between words: each character is a word, as in data sets of these languages.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:[^\w\s]+[^\W{_UNSPACED}]+)*|[^\w\s]")


def split_words(text: str) -> list[tuple[int, int]]:
    """Return the characters of each word as (start, end), end exclusive, in order."""
    return list(iter_words(text))


def iter_words(text: str) -> Iterator[tuple[int, int]]:
    """Yield the characters of each word, as `split_words` returns them."""
    return (match.span() for match in _WORD.finditer(text))
