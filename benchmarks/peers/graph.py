"""The least code that answers texts with an artifact's graph: `tokenizers` and ONNX Runtime, for the peer servers."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from tuneport.schema.loading import load_manifest

ARTIFACT = "ARTIFACT"
"""Variable with the artifact's folder."""


class TextGraph:
    """A text classifier without batching, checks or limits."""

    def __init__(self) -> None:
        """Open the default variant of the artifact that the environment names, in one thread: the graph is small."""
        folder = Path(os.environ[ARTIFACT])
        manifest = load_manifest(folder)
        self._labels = manifest.labels
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(manifest.processing.max_length)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        file = next(file.path for file in manifest.variant(None).execution.files if file.path.endswith(".onnx"))
        self._session = onnxruntime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
        self._inputs = [each.name for each in self._session.get_inputs()]

    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """Return `{"label", "score"}` for each text, in one batch padded to its longest text."""
        encoded = self._tokenizer.encode_batch(texts)
        length = max(map(len, encoded))
        ids = np.zeros((len(texts), length), np.int64)
        mask = np.zeros_like(ids)
        for i, each in enumerate(encoded):
            ids[i, : len(each)], mask[i, : len(each)] = each.ids, 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        [logits] = self._session.run(["logits"], {name: feeds[name] for name in self._inputs})
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        scores = exponentials / exponentials.sum(-1, keepdims=True)
        best = scores.argmax(-1).tolist()
        return [
            {"label": self._labels[i], "score": round(float(row[i]), 6)} for i, row in zip(best, scores, strict=True)
        ]
