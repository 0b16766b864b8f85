"""The HTTP application in this process, over real connections; and requests of the Open Inference Protocol."""

import asyncio
import functools
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn

from tuneport.stages.serve import logs
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.grpc import open_inference_pb2 as pb
from tuneport.stages.serve.http.app import create_app, create_refusal
from tuneport.stages.serve.http.protocol import extend_protocol
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models.host import ModelHost
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.process import free_port
from tuneport.stages.serve.settings import Settings

from .engines import wait_until


class LocalService:
    """An HTTP service in a thread of this process."""

    def __init__(self, inference: Inference, settings: Settings) -> None:
        """Start it on a free port."""
        self.inference = inference
        self.runner = inference.predictor.runner
        self.admission = AdmissionController(inference, settings)
        self.models = ModelRegistry(self.admission)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.host = ModelHost(self.models, settings, lambda folder: _open_version(folder, settings, self.admission))
        app = create_app(self.models, settings.origins(), self.host)
        config = uvicorn.Config(app, port=self.port, log_config=None, lifespan="off", ws="none", http="httptools")
        config.load()
        refuse = create_refusal(self.models, settings.origins())
        config.http_protocol_class = extend_protocol(config.http_protocol_class, settings, refuse)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()))
        self._thread.start()
        wait_until(lambda: self._server.started)

    @classmethod
    def open(cls, artifact: Path, **settings: Any) -> Self:
        """Serve an artifact, its fp32 variant unless `settings` name another."""
        chosen = Settings(**{"variant": "fp32", "log_requests": False, **settings})
        return cls(Inference.open(artifact, chosen), chosen)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET request."""
        return httpx.get(f"{self.url}{path}", timeout=30, **options)

    def post(self, inputs: Any = "bank", **options: Any) -> httpx.Response:
        """Send inputs to /predict."""
        return httpx.post(f"{self.url}/predict", json={"inputs": inputs}, timeout=30, **options)

    def post_in_background(self) -> threading.Thread:
        """Send a request from a thread."""
        thread = threading.Thread(target=self.post)
        thread.start()
        return thread

    def close(self) -> None:
        """Stop the server and the engine."""
        self._server.should_exit = True
        self._thread.join()
        self.host.close()
        logs.write_pending()


def _open_version(folder: Path, settings: Settings, beside: AdmissionController) -> AdmissionController:
    return AdmissionController(Inference.open(folder, settings), settings, worker=beside.worker)


@contextmanager
def local_service(artifact: Path, **settings: Any) -> Iterator[LocalService]:
    """Serve an artifact for the length of a block."""
    service = LocalService.open(artifact, **settings)
    try:
        yield service
    finally:
        service.close()


def assert_error(response: httpx.Response, status: int, *words: str) -> None:
    """Check that an error has its status, the shape of all errors, and these words."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert content.keys() == {"error"}
    assert content["error"].keys() == {"code", "message", "remedy"}
    assert all(isinstance(value, str) and value for value in content["error"].values())
    for word in words:
        assert word in response.text


def infer_request(texts: list[str], *, raw: bool = False, **fields: Any) -> Any:
    """Return a gRPC request for the tiny model, its texts as typed or raw contents."""
    request = pb.ModelInferRequest(model_name="tiny", **fields)
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    elements = [text.encode() for text in texts]
    if raw:
        request.raw_input_contents.append(b"".join(struct.pack("<I", len(each)) + each for each in elements))
    else:
        tensor.contents.bytes_contents.extend(elements)
    return request


def count_work(admission: AdmissionController) -> tuple[list[int], list[int]]:
    """Return two lists that grow: the rows of each batch that ends, and a 1 for each step of a generation."""
    batches: list[int] = []
    steps: list[int] = []
    admission.inference.on_batch = lambda report: batches.append(report.rows)
    model = admission.inference.predictor.runner.model  # type: ignore[attr-defined]
    forward = model.forward

    @functools.wraps(forward)
    def counted(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return forward(*args, **kwargs)

    model.forward = counted
    return batches, steps
