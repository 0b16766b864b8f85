"""What a refusal costs: the application under uvicorn in a thread of this process, which refuses every request."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import uvicorn
import uvloop

from tuneport.errors import TuneportError
from tuneport.schema.loading import load_golden
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.admission_policy import RefusalPacer
from tuneport.stages.serve.http.app import create_app, create_refusal
from tuneport.stages.serve.http.protocol import extend_protocol
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.logs import STDERR
from tuneport.stages.serve.process import free_port
from tuneport.stages.serve.settings import Settings

from ..endpoint.targets import HOST, PREDICT_PATH
from ..load.http import HttpConnection
from ..load.plan import REFUSED

WARM_UP = 300
REFUSALS = 3000
START_TIMEOUT_S = 10.0


def refusal_cpu_us(artifact: Path, variant: str | None) -> float:
    """Return the mean processor time of one refusal in µs: reading the request, deciding, responding, record and log.

    One connection sends the artifact's first golden input again and again. Raises TuneportError for another answer.
    """
    settings = Settings(variant=variant, max_concurrent_requests=1)
    inference = Inference.open(artifact, settings)
    admission = AdmissionController(inference, settings)
    admission.refusal_pacer = RefusalPacer(burst=WARM_UP + REFUSALS)  # holds none back
    port = free_port()
    config = uvicorn.Config(create_app(admission), HOST, port, log_config=None, lifespan="off", ws="none")
    config.load()
    config.http_protocol_class = extend_protocol(
        config.http_protocol_class, settings.header_timeout_s, create_refusal(admission)
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: uvloop.run(server.serve()))
    body = orjson.dumps({"inputs": load_golden(artifact)[0].input})
    request = HttpConnection.prepare(HOST, port, PREDICT_PATH, body)
    with admission.acquire_slot(), _discarded_log():
        thread.start()
        try:
            _wait_for(server)
            asyncio.run(_send(port, request, WARM_UP))
            before_s = _thread_cpu_s(thread)
            asyncio.run(_send(port, request, REFUSALS))
            return round(1e6 * (_thread_cpu_s(thread) - before_s) / REFUSALS, 1)
        finally:
            server.should_exit = True
            thread.join()
            inference.close()


async def _send(port: int, request: bytes, count: int) -> None:
    """Send a request again and again, each after the answer to the last."""
    connection = await HttpConnection.connect(HOST, port)
    for _ in range(count):
        status, _ = await connection.send(request)
        if status != REFUSED:
            raise TuneportError(f"a request that should be refused got {status}", "look at the log; report it")
    connection.close()
    await asyncio.sleep(0)


@contextlib.contextmanager
def _discarded_log() -> Iterator[None]:
    """Send what the service logs to nowhere, as lines that are written all the same."""
    stderr, nowhere = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STDERR)
        yield
    finally:
        os.dup2(stderr, STDERR)
        os.close(stderr)
        os.close(nowhere)


def _wait_for(server: uvicorn.Server) -> None:
    limit = time.monotonic() + START_TIMEOUT_S
    while not server.started and time.monotonic() < limit:
        time.sleep(0.01)


def _thread_cpu_s(thread: threading.Thread) -> float:
    """Read a thread's processor time from Linux."""
    schedule = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text(encoding="ascii")
    return int(schedule.split()[0]) / 1e9
