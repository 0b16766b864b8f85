"""Tells which texts a tokenizer truncated, for the warning before training."""

from collections.abc import Sequence
from typing import Any


def are_truncated(tokenizer: Any, encoded: Any, limit: int, *texts: Sequence[str]) -> list[bool]:
    """Tell of each text, or pair of texts, whether `encoded`, truncated at `limit` tokens, lacks some of its tokens.

    Slow tokenizers do not record it, so that what fills the limit is tokenized again.
    """
    if encoded.encodings is not None:
        return [bool(encoding.overflowing) for encoding in encoded.encodings]
    return [
        len(ids) >= limit and len(tokenizer(*row, verbose=False)["input_ids"]) > limit
        for ids, *row in zip(encoded["input_ids"], *texts, strict=True)
    ]
