"""Loads tokenizers that encode a list of words like the text of these words."""

from typing import Any

from tokenizers.normalizers import Prepend, Sequence
from tokenizers.pre_tokenizers import ByteLevel

from .config import FinetuneConfig
from .loading import load_aligned_tokenizer


def load_word_tokenizer(source: str, config: FinetuneConfig) -> Any:
    """Load a fast tokenizer for lists of words; raises CheckpointError for a slow one."""
    tokenizer = load_aligned_tokenizer(source, config)
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    if isinstance(pre_tokenizer, ByteLevel) and not pre_tokenizer.add_prefix_space:
        # RoBERTa's tokenizer counts the space before a word as part of it, and a list of words has no spaces.
        tokenizer = load_aligned_tokenizer(source, config, add_prefix_space=True)
    _prepend_spaces(tokenizer)
    return tokenizer


def _prepend_spaces(tokenizer: Any) -> None:
    """Make the tokenizer encode a list of words like a text, where it does not (Llama 3, Qwen).

    Such a tokenizer splits a text into words before it marks their spaces, and words of a list have none. A normalizer
    puts a space before each word, and before each text. It is saved in tokenizer.json, so that export and serving
    encode as training does.
    """
    backend = tokenizer.backend_tokenizer
    normalizer = backend.normalizer
    if not _encodes_lists_as_text(tokenizer):
        backend.normalizer = Sequence([*([normalizer] if normalizer else []), Prepend(" ")])
        if not _encodes_lists_as_text(tokenizer):
            backend.normalizer = normalizer


def _encodes_lists_as_text(tokenizer: Any) -> bool:
    words = tokenizer(["a", "b"], is_split_into_words=True, add_special_tokens=False)
    return bool(words["input_ids"] == tokenizer("a b", add_special_tokens=False)["input_ids"])
