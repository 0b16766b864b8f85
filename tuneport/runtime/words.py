"""Split text into words as data for named entity recognition has them: U.S and well-known stay whole."""

import re
from collections.abc import Iterator

# Scripts without spaces between words: each character is a word, as in data sets of these languages.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:[^\w\s]+[^\W{_UNSPACED}]+)*|[^\w\s]")


def split_words(text: str) -> list[tuple[int, int]]:
    """Return the characters of each word as (start, end), end exclusive, in order."""
    return [match.span() for match in _WORD.finditer(text)]


CHARS_A_TOKEN = 16
"""Characters a token, above the average of nearly every text."""


def parts(text: str, tokens: int, *, of_end: bool = False) -> Iterator[str]:
    """Yield longer and longer beginnings (or ends) of a text, and the whole text last.

    The first part nearly always has `tokens` tokens, so that a tokenizer need not read a whole megabyte to truncate it.
    Parts are cut between words, which no token spans: the first tokens of a part are those of the whole text.
    """
    chars = CHARS_A_TOKEN * tokens
    while chars < len(text):
        words = text[-chars:].split(maxsplit=1) if of_end else text[:chars].rsplit(maxsplit=1)
        if len(words) == 2:
            # Byte-pair tokens include the space before their word.
            yield f" {words[1]}" if of_end else words[0]
        chars *= 4
    yield text
