"""The other side of every comparison: torch and transformers, fp32, eager."""

from collections.abc import Sequence

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification

from export.checkpoint import Checkpoint, unloadable
from serve.engines import Output
from serve.tokenizer import Row, Text, pad


class TorchModel:
    """The checkpoint as its author would run it."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
        """Load the weights, from safetensors alone; a CheckpointError if they are damaged or don't fit."""
        self._checkpoint = checkpoint
        try:
            self._model = AutoModelForSequenceClassification.from_pretrained(
                checkpoint.folder, dtype=dtype, use_safetensors=True, trust_remote_code=checkpoint.trust_remote_code
            ).eval()
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise unloadable(checkpoint.folder, error) from error

    def logits(self, texts: Sequence[Text], batch_size: int = 16) -> Output:
        """Return logits, float32 (texts, labels), through transformers' own tokenizer in batches of like length."""
        tokenizer, limit = self._checkpoint.tokenizer, self._checkpoint.max_length
        order = sorted(range(len(texts)), key=lambda i: len(str(texts[i])))
        result = np.zeros((len(texts), len(self._checkpoint.labels)), np.float32)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            firsts, seconds = _columns([texts[i] for i in chosen])
            feeds = tokenizer(
                firsts, seconds, truncation=True, max_length=limit, padding=True, return_tensors="pt", verbose=False
            )
            with torch.inference_mode():
                result[chosen] = self._model(**feeds).logits.float().numpy()
        return result

    def run_batch(self, rows: Sequence[Row]) -> Output:
        """Run rows in one padded batch, as a variant's engine does; for timing."""
        feeds = pad(rows, self._checkpoint.tokenizer.pad_token_id or 0)
        names = self._checkpoint.tokenizer.model_input_names
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(feeds[name]) for name in names}
            return self._model(**tensors).logits.float().numpy()


def _columns(texts: Sequence[Text]) -> tuple[list[str], list[str] | None]:
    if isinstance(texts[0], str):
        return [text for text in texts if isinstance(text, str)], None
    return [text[0] for text in texts], [text[1] for text in texts]
