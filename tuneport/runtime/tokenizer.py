"""Encode texts with the `tokenizers` library alone, without transformers."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from tuneport.errors import ArtifactError, InputError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.words import parts
from tuneport.schema.artifact import Processing

Text = str | tuple[str, str]
"""A text, or a text with its pair."""
Words = list[str]
"""A text as a list of words."""


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

    def encode(self, texts: Sequence[Text]) -> list[EncodedInput]:
        """Return a row for each text, in order, truncated to `max_length` tokens.

        Raises InputError for a text without tokens, which only tokenizers without special tokens return.
        """
        # Only the beginning of a long text is tokenized, so that a megabyte costs no more than a page.
        readers = [parts(text, self._max_length) if isinstance(text, str) else iter([text]) for text in texts]
        encoded = self._tokenizer.encode_batch([next(reader) for reader in readers])
        rows = []
        for reader, encoding in zip(readers, encoded, strict=True):
            while not encoding.overflowing and (more := next(reader, None)) is not None:
                encoding = self._tokenizer.encode(more)
            if not encoding.ids:
                raise InputError("an input has no tokens", "send text with at least one character")
            rows.append(EncodedInput(encoding.ids, encoding.type_ids, bool(encoding.overflowing), encoding))
        return rows

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
            tokens = len(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except Exception:  # the library raises a bare one where `text` alone exceeds a window
            return 0
        return self._max_length - self._tokenizer.num_special_tokens_to_add(is_pair=True) - tokens

    def id_of(self, token: str) -> int | None:
        """Return the id of a token; None if the vocabulary lacks it."""
        return self._tokenizer.token_to_id(token)
