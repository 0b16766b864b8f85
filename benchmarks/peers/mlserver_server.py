"""MLServer with its Hugging Face runtime and adaptive batching, as its documentation shows.

    ENVIRONMENT/bin/python mlserver_server.py PORT

Environment variables: `CHECKPOINT`, `DEVICE` and `MAX_LENGTH`, as for `bento_torch.py`. The settings are written into
the working directory. The runtime runs in fp32.
"""

import json
import os
import socket
import sys
from pathlib import Path

import optimum.pipelines

# Optimum 2 has no such list; the runtime reads it for models that Optimum runs, and this one does not.
optimum.pipelines.SUPPORTED_TASKS = {}

from mlserver_huggingface import HuggingFaceRuntime  # noqa: E402 -- it imports the list

MAX_BATCH_SIZE, MAX_BATCH_TIME_S = 16, 0.01


class TruncatingRuntime(HuggingFaceRuntime):
    """The runtime, with the pipeline's own truncation: requests that share a batch cannot ask for it."""

    async def load(self) -> bool:
        """Load the pipeline."""
        is_loaded: bool = await super().load()
        self._model._preprocess_params |= {"truncation": True, "max_length": int(os.environ["MAX_LENGTH"])}
        return is_loaded


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Write the settings, and become MLServer."""
    settings = {"host": "127.0.0.1", "http_port": int(sys.argv[1]), "grpc_port": free_port()}
    model = {
        "name": "model",
        "implementation": f"{Path(__file__).stem}.{TruncatingRuntime.__name__}",
        "max_batch_size": MAX_BATCH_SIZE,
        "max_batch_time": MAX_BATCH_TIME_S,
        "parameters": {
            "extra": {
                "task": "text-classification",
                "pretrained_model": os.environ["CHECKPOINT"],
                "framework": "pt",
                "device": os.environ.get("DEVICE", "cpu"),
                "intra_op_threads": int(os.environ["OMP_NUM_THREADS"]),
            }
        },
    }
    Path("settings.json").write_text(json.dumps(settings | {"metrics_port": free_port()}), encoding="utf-8")
    Path("model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", "."])


if __name__ == "__main__":
    main()
