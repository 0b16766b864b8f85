"""Encode text, chats and audio for generative models, and decode tokens, with transformers' own processors.

Imported for generative tasks only; needs the `generate` extra.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoTokenizer
from transformers.utils import logging

from tuneport.errors import ArtifactError, InputError
from tuneport.runtime.audio import Samples
from tuneport.runtime.prefixes import CHARS_A_TOKEN, deciding_part
from tuneport.schema.artifact import Processing

MARGIN_TOKENS = 16
"""Tokens at the end of a part that the rest of the text may change."""


class TextProcessor:
    """The checkpoint's tokenizer and, for speech, its feature extractor; thread-safe."""

    def __init__(self, folder: Path, processing: Processing) -> None:
        """Load them from `folder`; raises ArtifactError if they cannot be read."""
        assert processing.generation is not None
        logging.set_verbosity_error()
        # transformers changes a tokenizer's settings while it encodes, so that calls must not overlap.
        self._lock = threading.Lock()
        self._generation = processing.generation
        self._max_length = processing.max_length
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            has_audio = self._generation.sampling_rate is not None
            self._extractor: Any = (
                AutoFeatureExtractor.from_pretrained(folder, local_files_only=True) if has_audio else None
            )
        except Exception as error:  # the tokenizers library raises bare exceptions
            raise ArtifactError(f"{folder} has no usable tokenizer ({error})", "export the checkpoint again") from error
        if processing.padding_side == "left":  # the end of a prompt decides how it continues
            self.tokenizer.truncation_side = "left"
        if self._generation.source_language:
            self.tokenizer.src_lang = self._generation.source_language

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[tuple[list[int], bool]]:
        """Return each text's token ids, `max_length` at most, and whether it was truncated.

        Only as much of a long text is tokenized as that takes. `special` adds special tokens.
        """
        limit, of_end = self._max_length, self.tokenizer.truncation_side == "left"
        encoded = []
        for text in texts:
            part = self._part(text, limit, of_end=of_end)
            ids = self._ids(part, special, limit + 1)
            if is_truncated := len(ids) > limit:
                ids = self._ids(part, special, limit)
            encoded.append((ids or [self._first_token()], is_truncated))
        return encoded

    def ids(self, text: str, limit: int, *, special: bool = True) -> list[int]:
        """Return the first `limit` token ids of a text, whatever the truncation side."""
        return self._all_ids(self._part(text, limit), special)[:limit] or [self._first_token()]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special tokens.

        Takes no lock, since it changes no setting: the event loop must not wait while a long text is encoded.
        """
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a template for chats."""
        return bool(self.tokenizer.chat_template)

    def chat(self, messages: list[dict[str, str]], *, is_finished: bool = False) -> str:
        """Render a chat with the model's template, followed by the prompt for an answer unless it `is_finished`."""
        if not self.has_chat_template:
            raise InputError("this model has no chat template", "send a text instead of messages")
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not is_finished
            )
        except Exception as error:  # a template may raise anything
            raise InputError(f"the chat template refuses the messages ({str(error)[:200]})", "correct them") from error
        return str(rendered)

    @property
    def window_s(self) -> float:
        """Return the seconds of audio in the model's window."""
        return float(self._extractor.n_samples / self._extractor.sampling_rate)

    def spectrogram(self, samples: Samples) -> tuple[Any, bool]:
        """Return a recording's log-mel spectrogram, float32 (mels, frames), and whether it was truncated."""
        rate = self._extractor.sampling_rate
        features = self._extractor(samples, sampling_rate=rate, return_tensors="np")["input_features"][0]
        return features, len(samples) > self._extractor.n_samples

    def _ids(self, text: str, special: bool, limit: int) -> list[int]:
        with self._lock:
            encoded = self.tokenizer(text, add_special_tokens=special, truncation=True, max_length=limit, verbose=False)
        return list(encoded["input_ids"])

    def _all_ids(self, text: str, special: bool) -> list[int]:
        with self._lock:
            return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def _part(self, text: str, limit: int, *, of_end: bool = False) -> str:
        """Return a part of a text that decides its first (or last) `limit` tokens, and that it has more."""

        def final_ids(parts: Sequence[str]) -> list[list[int] | None]:
            found = [self._all_ids(part, False) for part in parts]
            kept = slice(-limit, None) if of_end else slice(limit)
            return [ids[kept] if len(ids) >= limit + MARGIN_TOKENS else None for ids in found]

        return deciding_part(text, CHARS_A_TOKEN * limit, final_ids, of_end=of_end)

    def _first_token(self) -> int:
        """Return the token that replaces an empty prompt, from which no model can generate."""
        tokenizer = self.tokenizer
        candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
        return next(int(token) for token in candidates if token is not None)
