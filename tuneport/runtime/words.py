"""Words of running text, split as the data of taggers is: outer punctuation apart, inner kept (U.S, well-known)."""

import re
from collections.abc import Iterator

# Scripts without spaces between words: a character each, as their data has them.
_ALONE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+(?:[^\w\s]+[^\W{_ALONE}]+)*|[^\w\s]")


def split_words(text: str) -> list[tuple[int, int]]:
    """Return first and last-but-one character of each word, in order."""
    return [match.span() for match in _WORD.finditer(text)]


CHARS_A_TOKEN = 16
"""More than nearly every text has on the average."""


def parts(text: str, tokens: int, *, of_end: bool = False) -> Iterator[str]:
    """Yield ever longer beginnings (or ends) of a text, the whole one last; nearly every first one has so many tokens.

    They are cut between words, which no token reaches across: who wants the first tokens of a megabyte, and finds them
    in a part, has those of the whole.
    """
    chars = CHARS_A_TOKEN * tokens
    while chars < len(text):
        words = text[-chars:].split(maxsplit=1) if of_end else text[:chars].rsplit(maxsplit=1)
        if len(words) == 2:
            # Tokens of the byte-pair kind begin with the space before their word.
            yield f" {words[1]}" if of_end else words[0]
        chars *= 4
    yield text
