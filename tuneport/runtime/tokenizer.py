"""Text to rows of token ids, with the `tokenizers` library alone."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from tuneport.errors import ArtifactError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.words import parts
from tuneport.schema.artifact import Processing

Text = str | tuple[str, str]
"""A text, or a text with its pair."""
Words = list[str]
"""A text that was split into words."""


class TextTokenizer:
    """Encodes as the checkpoint's own tokenizer does with `truncation=True`; safe to call from threads.

    With a `doc_stride` nothing is cut: a longer input becomes several overlapping rows, of a pair its second text
    in windows behind the whole first one.
    """

    def __init__(self, path: Path, processing: Processing) -> None:
        """Load tokenizer.json."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{path} is not a tokenizer ({error})", "export the checkpoint again") from error
        self._max_length = processing.max_length
        self._stride = processing.doc_stride
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(
            processing.max_length,
            stride=self._stride or 0,
            strategy="only_second" if self._stride is not None and processing.accepts_pairs else "longest_first",
            direction="right",
        )

    def encode(self, texts: Sequence[Text]) -> list[EncodedInput]:
        """Return a row for each text, in order, each cut at `max_length` tokens."""
        # Of a long text only the beginning is read, so that a megabyte costs no more than a page.
        readers = [parts(text, self._max_length) if isinstance(text, str) else iter([text]) for text in texts]
        encoded = self._tokenizer.encode_batch([next(reader) for reader in readers])
        rows = []
        for reader, encoding in zip(readers, encoded, strict=True):
            while not encoding.overflowing and (more := next(reader, None)) is not None:
                encoding = self._tokenizer.encode(more)
            rows.append(EncodedInput(encoding.ids, encoding.type_ids, bool(encoding.overflowing), encoding))
        return rows

    def windows(self, texts: Sequence[Text] | Sequence[Words]) -> list[list[EncodedInput]]:
        """Return the overlapping rows of each text, in order; nothing is cut."""
        are_words = bool(texts) and isinstance(texts[0], list)
        encoded = self._tokenizer.encode_batch(list(texts), is_pretokenized=are_words)
        return [
            [EncodedInput(window.ids, window.type_ids, False, window) for window in (encoding, *encoding.overflowing)]
            for encoding in encoded
        ]

    def room_beside(self, text: str) -> int:
        """Count the tokens of a window that `text` leaves to its pair."""
        try:
            taken = len(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except Exception:  # bare, of the library: alone it is longer than a window, and has no pair to cut
            return 0
        return self._max_length - self._tokenizer.num_special_tokens_to_add(is_pair=True) - taken

    def id_of(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary."""
        return self._tokenizer.token_to_id(token)
