"""Scripts that are written without spaces between words: their characters stand where other scripts have words.

Serving splits texts with it, so it needs only the standard library.
"""

import re
from collections.abc import Iterable

UNSPACED = (
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
    "\u0e01-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1780-\u17d3"  # Thai, Lao, Burmese, Khmer
)
"""Inside of a character class of `re`."""
_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3\u3099\u309a"
CHARACTER = rf"[{UNSPACED}][{_MARKS}]*"
"""Pattern of a character of these scripts, with the vowels and tones that belong to it."""
KANA = re.compile("[\u3040-\u30ff\uff66-\uff9f]")
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_CHARACTER = re.compile(CHARACTER)
_WORD = re.compile(rf"[^\W\d_{UNSPACED}]+")


def separate_characters(text: str) -> str:
    """Put spaces around each character of scripts without spaces, so that splitting gives words or characters."""
    return _CHARACTER.sub(lambda match: f" {match.group()} ", text)


def is_unspaced(texts: Iterable[str]) -> bool:
    """Tell whether texts have more characters of scripts without spaces than words of others."""
    characters = words = 0
    for text in texts:
        characters += len(_CHARACTER.findall(text))
        words += len(_WORD.findall(text))
    return characters > words
