"""Encode texts with the `tokenizers` library alone, without transformers."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Encoding, Tokenizer, models

from tuneport.errors import ArtifactError, InputError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.prefixes import CHARS_A_TOKEN, deciding_part
from tuneport.runtime.truncation import count_tokens, join_pair, longest_first, words_after
from tuneport.schema.artifact import Processing

Text = str | tuple[str, str]
"""A text, or a text with its pair."""
Words = list[str]
"""A text as a list of words."""
MARGIN_WORDS = 4
"""So many words at the end of a part may change with the rest of the text, if the part ends inside of a word."""
MAX_CHARS_A_TOKEN = 16 * CHARS_A_TOKEN
"""Limit of how much of a pair is read to find its longer text, in characters for each token of the row."""


class TextTokenizer:
    """Encodes texts as the checkpoint's own tokenizer does with `truncation=True`; thread-safe.

    With a `doc_stride`, longer inputs are not truncated but become several overlapping windows; of a pair, the second
    text is divided into windows, each behind the whole first text.
    """

    def __init__(self, path: Path, processing: Processing) -> None:
        """Load tokenizer.json; raises ArtifactError if it cannot be read."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{path} is not a tokenizer ({error})", "export the checkpoint again") from error
        self._max_length = processing.max_length
        self._stride = processing.doc_stride
        self._has_final_prefixes = isinstance(self._tokenizer.model, models.BPE | models.Unigram)
        self._tokenizer.no_padding()
        try:
            self._tokenizer.enable_truncation(
                processing.max_length,
                stride=self._stride or 0,
                strategy="only_second" if self._stride is not None and processing.accepts_pairs else "longest_first",
                direction="right",
            )
        except ValueError as error:
            problem = f"windows of {processing.max_length} tokens cannot share {self._stride} ({error})"
            raise ArtifactError(problem, "export the checkpoint again") from error

    def encode(self, texts: Sequence[Text], *, with_positions: bool = True) -> list[EncodedInput]:
        """Return a row for each text, in order, truncated to `max_length` tokens.

        Without the tokens' positions in the text, which few tasks need, it takes a fifth less time. Only as much of a
        long text is tokenized as decides its row. Raises InputError for a text without tokens, which only tokenizers
        without special tokens return.
        """
        rows: list[EncodedInput | None] = [None] * len(texts)
        together: dict[int, Text] = {}
        for index, text in enumerate(texts):
            if isinstance(text, str):
                together[index] = self._beginning(text)
            elif sum(map(len, text)) < self._max_length:
                together[index] = text
            else:
                rows[index] = self._encode_long_pair(text)
        encode = self._tokenizer.encode_batch if with_positions else self._tokenizer.encode_batch_fast
        encoded = encode([*together.values()])
        for index, encoding in zip(together, encoded, strict=True):
            if not encoding.ids:
                raise InputError("an input has no tokens", "send text with at least one character")
            rows[index] = EncodedInput(encoding.ids, encoding.type_ids, bool(encoding.overflowing), encoding)
        return [row for row in rows if row is not None]

    def windows(self, texts: Sequence[Text] | Sequence[Words]) -> list[list[EncodedInput]]:
        """Return the overlapping windows of each text, in order."""
        are_words = bool(texts) and isinstance(texts[0], list)
        encoded = self._tokenizer.encode_batch(list(texts), is_pretokenized=are_words)
        return [
            [EncodedInput(window.ids, window.type_ids, False, window) for window in (encoding, *encoding.overflowing)]
            for encoding in encoded
        ]

    def tokens_left_for_pair(self, text: str) -> int:
        """Count the tokens of a window that `text` leaves for its second text; 0 or less if none."""
        try:
            [encoding] = self._tokenizer.encode_batch([self._beginning(text)], add_special_tokens=False)
        except Exception:  # the library raises a bare one where `text` alone exceeds a window
            return 0
        return self._max_length - self._tokenizer.num_special_tokens_to_add(is_pair=True) - len(encoding)

    def id_of(self, token: str) -> int | None:
        """Return the id of a token; None if the vocabulary lacks it."""
        return self._tokenizer.token_to_id(token)

    def _beginning(self, text: str, chars_a_token: int = CHARS_A_TOKEN) -> str:
        """Return the part of a text that decides its first `max_length` tokens, and that it has more."""
        return deciding_part(text, chars_a_token * self._max_length, self._final_ids)

    def _final_ids(self, parts: Sequence[str]) -> list[list[int] | None]:
        """Return the first tokens of each part; None for a part of which the rest of the text may change them."""
        margin = 1 if len(parts) == 1 else 0 if self._has_final_prefixes else MARGIN_WORDS
        encoded = self._tokenizer.encode_batch(list(parts))
        return [each.ids if words_after(each) >= margin else None for each in encoded]

    def _encode_long_pair(self, pair: tuple[str, str]) -> EncodedInput:
        """Encode a pair that may have to be truncated."""
        first, second = self._read_pair(pair)
        counts = count_tokens(first), count_tokens(second)
        room = self._max_length - self._tokenizer.num_special_tokens_to_add(is_pair=True)
        kept = longest_first(*counts, room)
        for encoding, length in zip((first, second), kept, strict=True):
            encoding.truncate(length)
        row = join_pair(self._tokenizer, first, second)
        return EncodedInput(row.ids, row.type_ids, sum(kept) < sum(counts), row)

    def _read_pair(self, pair: tuple[str, str]) -> tuple[Encoding, Encoding]:
        """Tokenize as much of both texts as decides their row.

        Where both are truncated the longer one may keep one token more, so both are read until one ends, or up to
        `MAX_CHARS_A_TOKEN`.
        """
        chars_a_token = CHARS_A_TOKEN
        while True:
            parts = [self._beginning(text, chars_a_token) for text in pair]
            first, second = self._tokenizer.encode_batch(parts, add_special_tokens=False)
            difference = count_tokens(first) - count_tokens(second)
            is_first_whole, is_second_whole = (part is text for part, text in zip(parts, pair, strict=True))
            is_decided = (is_first_whole and (is_second_whole or difference < 0)) or (
                is_second_whole and difference > 0
            )
            if is_decided or chars_a_token >= MAX_CHARS_A_TOKEN:
                return first, second
            chars_a_token *= 4
