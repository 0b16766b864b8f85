"""Words of running text, split as the data of taggers is: outer punctuation apart, inner kept (U.S, well-known)."""

import re

# Scripts without spaces between words: a character each, as their data has them.
_ALONE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+(?:[^\w\s]+[^\W{_ALONE}]+)*|[^\w\s]")


def split_words(text: str) -> list[tuple[int, int]]:
    """Return first and last-but-one character of each word, in order."""
    return [match.span() for match in _WORD.finditer(text)]
