"""Text to rows of token ids, with the `tokenizers` library alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from export.files import ArtifactError
from export.manifest import Processing

Ids = npt.NDArray[np.int64]
Text = str | tuple[str, str]
"""A text, or a text with its pair."""


@dataclass(frozen=True, slots=True)
class Row:
    """One input as token ids, special tokens included."""

    ids: list[int]
    type_ids: list[int]
    truncated: bool
    """Whether the input was longer than the model's maximum and lost its end."""

    def __len__(self) -> int:
        """Count the tokens."""
        return len(self.ids)


class TextTokenizer:
    """Encodes as the checkpoint's own tokenizer does with `truncation=True`; safe to call from threads."""

    def __init__(self, path: Path, processing: Processing) -> None:
        """Load tokenizer.json."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{path} is not a tokenizer ({error})", "export the checkpoint again") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(processing.max_length, strategy="longest_first")
        # Enough for max_length tokens of nearly every text, so that a megabyte costs no more than a page.
        self._prefix_chars = 16 * processing.max_length

    def encode(self, texts: Sequence[Text]) -> list[Row]:
        """Return a row for each text, in order, each of at most `max_length` tokens."""
        short = [self._prefix(text) if isinstance(text, str) else text for text in texts]
        encoded = self._tokenizer.encode_batch(short)
        rows = []
        for text, used, encoding in zip(texts, short, encoded, strict=True):
            truncated = bool(encoding.overflowing)
            if used is not text and not truncated:
                encoding = self._tokenizer.encode(text)
                truncated = bool(encoding.overflowing)
            rows.append(Row(encoding.ids, encoding.type_ids, truncated))
        return rows

    def _prefix(self, text: str) -> str:
        """Cut a very long text after a whole word; exact, because tokens don't reach over white space.

        `encode` falls back to the whole text where the prefix didn't fill the row.
        """
        if len(text) <= self._prefix_chars:
            return text
        words = text[: self._prefix_chars].rsplit(maxsplit=1)
        return words[0] if len(words) == 2 else text


def pad(rows: Sequence[Row], pad_id: int) -> dict[str, Ids]:
    """Stack rows into the arrays that encoders take, each int64 of shape (rows, longest row)."""
    shape = (len(rows), max(map(len, rows)))
    ids, mask, types = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, row in enumerate(rows):
        n = len(row)
        ids[i, :n], mask[i, :n], types[i, :n] = row.ids, 1, row.type_ids
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
