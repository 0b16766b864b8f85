"""A transformers pipeline behind Ray Serve with `@serve.batch`, as its documentation shows.

    ENVIRONMENT/bin/python rayserve_server.py PORT

Environment variables: `CHECKPOINT`, `DTYPE`, `DEVICE` and `MAX_LENGTH`, as for `bento_torch.py`. Ray's processes keep
their files in the working directory and listen on the loopback interface.
"""

import os
import signal
import sys
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"  # it would write a token into the home directory

import ray
import torch
from ray import serve
from starlette.requests import Request
from transformers import pipeline

MAX_BATCH_SIZE, BATCH_WAIT_S = 16, 0.01
MAX_ONGOING_REQUESTS = 256
"""Requests that the replica takes at once; its default of 5 would keep batches small."""
OBJECT_STORE_BYTES = 100_000_000


@serve.deployment(max_ongoing_requests=MAX_ONGOING_REQUESTS)
class TextClassification:
    """Answers `{"text": …}` with `{"label", "score"}`, and GET once the model is loaded."""

    def __init__(self) -> None:
        """Load the model; Ray gives an actor one thread unless it is told otherwise."""
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.pipeline = pipeline(
            "text-classification",
            model=os.environ["CHECKPOINT"],
            torch_dtype=getattr(torch, os.environ.get("DTYPE", "float32")),
            device=os.environ.get("DEVICE", "cpu"),
        )
        self.max_length = int(os.environ["MAX_LENGTH"])

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """Classify a batch."""
        found: list[dict[str, Any]] = self.pipeline(
            texts, batch_size=len(texts), truncation=True, max_length=self.max_length
        )
        return found

    async def __call__(self, request: Request) -> Any:
        """Answer a request."""
        if request.method == "GET":
            return {"ready": True}
        return await self.classify((await request.json())["text"])


def main() -> None:
    """Serve until a signal comes."""
    ray.init(
        _node_ip_address="127.0.0.1",
        _temp_dir=os.getcwd(),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    # mypy does not see what a decorator makes of a class.
    serve.run(TextClassification.bind(), route_prefix="/")  # type: ignore[attr-defined]
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
