"""Read only the part of a long text that decides its first (or last) tokens.

A tokenizer takes seconds for a megabyte of which the model reads a page. A part of the text is tokenized instead, and
its tokens are used only where the rest of the text cannot change them:

- Pre-tokenizers split a text into words, and each word is tokenized by itself. A part that ends at white space changes
  at most its last word, so the tokens of the words before it are final.
- Without white space, the part is cut at many neighbouring places. In byte-pair encoding and in the unigram model,
  tokens up to a token's boundary do not depend on what follows it (for unigram: but for the choice of that boundary).
  Some of the places are boundaries of the whole text's tokens, so tokens that all parts have in common are final.

Where neither holds, for example in a long run of one character, the whole text is tokenized.
"""

from collections.abc import Callable, Iterator, Sequence

CHARS_A_TOKEN = 16
"""Characters a token, above the average of nearly every text."""
CUTS = 24
"""Neighbouring places at which a part without white space is cut: more than the longest token of usual vocabularies."""
GROWTH = 4
"""Factor from one part's length to the next one's."""


def deciding_part(
    text: str,
    chars: int,
    final_ids: Callable[[Sequence[str]], Sequence[Sequence[int] | None]],
    *,
    of_end: bool = False,
) -> str:
    """Return a beginning (or an end) of a text that has the same first (or last) tokens, the text itself if none has.

    Tries `chars` characters first, and then longer and longer parts. `final_ids` returns the first tokens of each part
    that it is given, None for a part that has too few.
    """
    while chars < len(text):
        for parts in _cuts(text, chars, of_end=of_end):
            ids = final_ids(parts)
            if ids[0] is not None and all(each == ids[0] for each in ids):
                return parts[0]
        chars *= GROWTH
    return text


def _cuts(text: str, chars: int, *, of_end: bool) -> Iterator[list[str]]:
    """Yield the part that is cut at white space, unless that is far away, and the parts of neighbouring places."""
    part = text[-chars:] if of_end else text[:chars]
    words = part.split(maxsplit=1) if of_end else part.rsplit(maxsplit=1)[::-1]
    if len(words) == 2 and len(words[1]) > chars // 2:
        # Byte-pair tokens include the space before their word.
        yield [f" {words[1]}" if of_end else words[1]]
    if CUTS * chars < len(text):
        yield [part[cut:] if of_end else part[: chars - cut] for cut in range(CUTS)]
