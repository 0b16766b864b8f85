"""A transformers pipeline behind LitServe with its batching, as its documentation shows.

    ENVIRONMENT/bin/python litserve_server.py PORT

Environment variables: `CHECKPOINT`, `DTYPE`, `DEVICE` and `MAX_LENGTH`, as for `bento_torch.py`.
"""

import os
import sys
from typing import Any

import litserve
import torch
from transformers import pipeline

MAX_BATCH_SIZE, BATCH_TIMEOUT_S = 16, 0.01


class TextClassification(litserve.LitAPI):
    """Answers `{"text": …}` with `{"label", "score"}`."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.pipeline = pipeline(
            "text-classification",
            model=os.environ["CHECKPOINT"],
            torch_dtype=getattr(torch, os.environ.get("DTYPE", "float32")),
            device=device,
        )
        self.max_length = int(os.environ["MAX_LENGTH"])

    def decode_request(self, request: dict[str, str]) -> str:
        """Return the text."""
        return request["text"]

    def predict(self, x: list[str]) -> list[dict[str, Any]]:
        """Classify a batch."""
        texts = [x] if isinstance(x, str) else list(x)
        return self.pipeline(texts, batch_size=len(texts), truncation=True, max_length=self.max_length)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return the label and its score."""
        return {"label": output["label"], "score": float(output["score"])}


if __name__ == "__main__":
    api = TextClassification(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_S)
    server = litserve.LitServer(api, accelerator=os.environ.get("DEVICE", "cpu"), healthcheck_path="/readyz")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, num_api_servers=1)
