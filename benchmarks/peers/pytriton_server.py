"""A transformers pipeline in Triton's Python backend with dynamic batching, as PyTriton's documentation shows.

    ENVIRONMENT/bin/python pytriton_server.py PORT

Environment variables: `CHECKPOINT`, `DTYPE`, `DEVICE` and `MAX_LENGTH`, as for `bento_torch.py`.
"""

import os
import socket
import sys
import sysconfig
from typing import Any

import numpy as np
import torch
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from transformers import pipeline

MAX_BATCH_SIZE, BATCH_WAIT_US = 16, 10_000


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Serve `text` → `label` and `score` over the Open Inference Protocol."""
    classifier: Any = pipeline(
        "text-classification",
        model=os.environ["CHECKPOINT"],
        torch_dtype=getattr(torch, os.environ.get("DTYPE", "float32")),
        device=os.environ.get("DEVICE", "cpu"),
    )
    max_length = int(os.environ["MAX_LENGTH"])

    @batch
    def classify(text: np.ndarray) -> dict[str, np.ndarray]:
        texts = [row[0].decode() for row in text]
        found = classifier(texts, batch_size=len(texts), truncation=True, max_length=max_length)
        labels = np.array([[each["label"].encode()] for each in found], dtype=object)
        return {"label": labels, "score": np.array([[each["score"]] for each in found], dtype=np.float32)}

    # Triton's backend loads libpython, and the system may have another patch version, to which this library is foreign.
    paths = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, paths))
    config = TritonConfig(
        http_address="127.0.0.1", http_port=int(sys.argv[1]), grpc_port=free_port(), metrics_port=free_port()
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=classify,
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="label", dtype=bytes, shape=(1,)), Tensor(name="score", dtype=np.float32, shape=(1,))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH_SIZE, batcher=DynamicBatcher(max_queue_delay_microseconds=BATCH_WAIT_US)
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
