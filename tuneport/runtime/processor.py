"""Text, chats and sound to what models that write read, and tokens back to text, by transformers' own processors.

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
from tuneport.runtime.words import parts
from tuneport.schema.artifact import Processing


class TextProcessor:
    """The checkpoint's tokenizer, and its feature extractor where it hears; safe to call from threads."""

    def __init__(self, folder: Path, processing: Processing) -> None:
        """Load from `folder`."""
        assert processing.generation is not None
        logging.set_verbosity_error()
        # transformers changes a tokenizer's settings while it encodes, which must not meet another call.
        self._lock = threading.Lock()
        self._generation = processing.generation
        self._max_length = processing.max_length
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            hears = self._generation.sampling_rate is not None
            self._extractor: Any = (
                AutoFeatureExtractor.from_pretrained(folder, local_files_only=True) if hears else None
            )
        except Exception as error:  # the tokenizers library raises bare ones
            raise ArtifactError(f"{folder} has no usable tokenizer ({error})", "export the checkpoint again") from error
        if processing.padding_side == "left":  # what comes next depends on the end of a prompt
            self.tokenizer.truncation_side = "left"
        if self._generation.source_language:
            self.tokenizer.src_lang = self._generation.source_language

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[tuple[list[int], bool]]:
        """Return each text's token ids, `max_length` at most, and whether it was cut.

        Of a long text no more is read than it takes to know.
        """
        made, limit = [], self._max_length
        for text in texts:
            ids, is_cut = [], False
            for part in parts(text, limit + 1, of_end=self.tokenizer.truncation_side == "left"):
                ids = self._ids(part, special, limit + 1)
                if is_cut := len(ids) > limit:
                    ids = self._ids(part, special, limit)
                    break
            made.append((ids or [self._begin()], is_cut))
        return made

    def ids(self, text: str, limit: int, *, special: bool = True) -> list[int]:
        """Return a text's first token ids, `limit` at most."""
        ids: list[int] = []
        for part in parts(text, limit):
            with self._lock:
                ids = self.tokenizer(part, add_special_tokens=special, verbose=False)["input_ids"][:limit]
            if len(ids) == limit:
                break
        return list(ids) or [self._begin()]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones.

        Changes nothing of the tokenizer's and takes no lock: the event loop must not wait for a long text's encoding.
        """
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def chat(self, messages: list[dict[str, str]], *, is_finished: bool = False) -> str:
        """Render a chat by the model's template, ready for the next answer unless it is finished."""
        if not self.tokenizer.chat_template:
            raise InputError("this model has no chat template", "send a text instead of messages")
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not is_finished
            )
        except Exception as error:  # templates raise what they like
            raise InputError(f"the chat template refuses the messages ({str(error)[:200]})", "correct them") from error
        return str(rendered)

    @property
    def longest_s(self) -> float:
        """Tell how long a recording the model hears at once."""
        return float(self._extractor.n_samples / self._extractor.sampling_rate)

    def spectrogram(self, samples: Samples) -> tuple[Any, bool]:
        """Return a recording's log-mel spectrogram, float32 (mels, frames), and whether its end was lost."""
        rate = self._extractor.sampling_rate
        features = self._extractor(samples, sampling_rate=rate, return_tensors="np")["input_features"][0]
        return features, len(samples) > self._extractor.n_samples

    def _ids(self, text: str, special: bool, limit: int) -> list[int]:
        with self._lock:
            encoded = self.tokenizer(text, add_special_tokens=special, truncation=True, max_length=limit, verbose=False)
        return list(encoded["input_ids"])

    def _begin(self) -> int:
        """Stand in for a prompt of no tokens, which no model can go on from."""
        tokenizer = self.tokenizer
        found = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
        return next(int(token) for token in found if token is not None)
