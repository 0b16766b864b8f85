"""Names of the kit, until every test imports it."""
# ruff: noqa: F401

from kit.data import write_pairs
from kit.generative import (
    build_causal,
    build_mbart,
    build_seq2seq,
    build_whisper,
    save,
    seq2seq_config,
)
from kit.texts import NUMBERS, pairs
from kit.tokenizers import (
    BEGIN,
    CHAT_TEMPLATE,
    END,
    MARKING_TEMPLATE,
    PAD,
    SPECIAL,
    UNKNOWN,
    byte_tokenizer,
    word_tokenizer,
)
