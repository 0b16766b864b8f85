"""What the `tokenizers` library does to an encoding that is too long, as far as its Python interface lacks it."""

import json
from typing import Any

from tokenizers import Encoding, Tokenizer


def count_tokens(encoding: Encoding) -> int:
    """Count the tokens of an encoding without special tokens, those that were cut off included."""
    return len(encoding) + sum(map(len, encoding.overflowing))


def words_after(encoding: Encoding) -> int:
    """Count the words after that of the first token which was cut off; -1 if none was."""
    cut_off = encoding.overflowing
    if not cut_off:
        return -1
    first, last = ([word for word in window.word_ids if word is not None] for window in (cut_off[0], cut_off[-1]))
    return last[-1] - first[0] if first and last else -1


def longest_first(first: int, second: int, limit: int) -> tuple[int, int]:
    """Return how many tokens of each text of a pair are kept, `limit` at most together, as the library decides.

    The longer one loses tokens first. If both do, each keeps half, and the longer one an odd token.
    """
    shorter, longer = sorted((first, second))
    longer = max(shorter, limit - shorter) if first + second > limit else longer
    if shorter + longer > limit:
        shorter = limit // 2
        longer = shorter + limit % 2
    return (longer, shorter) if first > second else (shorter, longer)


def join_pair(tokenizer: Tokenizer, first: Encoding, second: Encoding) -> Encoding:
    """Return the row of a pair whose encodings have no special tokens; what was cut off from them is left out.

    Given it, the library would combine every window of the first text with every window of the second.
    """
    kept = [
        _changed(encoding, overflowing=[], sequence_ranges={}, type_ids=[index] * len(encoding))
        for index, encoding in enumerate((first, second))
    ]
    row = tokenizer.post_process(*kept)
    # Byte-level post-processing moves the start of each token behind its space, and has done so already.
    offsets = iter([*first.offsets, *second.offsets])
    return _changed(row, offsets=[(0, 0) if text is None else next(offsets) for text in row.sequence_ids])


def _changed(encoding: Encoding, **fields: Any) -> Encoding:
    """Return a copy with other values in some fields, which the library itself has no way to set."""
    copy = Encoding()
    copy.__setstate__(json.dumps({**json.loads(encoding.__getstate__()), **fields}).encode())
    return copy
