"""Processor time of one HTTP request: an application under uvicorn in a thread of this process, under load."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import uvicorn
import uvloop
from starlette.types import ASGIApp

from tuneport.errors import TuneportError
from tuneport.stages.serve.http.protocol import Refuse, extend_protocol
from tuneport.stages.serve.logs import STDERR
from tuneport.stages.serve.process import free_port
from tuneport.stages.serve.settings import Settings

from ..load.plan import LoadPlan
from .processes import run_load
from .targets import HOST, PREDICT_PATH

WARM_UP_S = 0.3
SECONDS = 2.0
CONNECTIONS = 32
"""With one, most of the time would be that of threads which sleep and wake."""
START_TIMEOUT_S = 10.0


def http_cpu_us(app: ASGIApp, body: bytes, expected: int, refuse: Refuse | None = None) -> float:
    """Return the mean processor time in µs of one `POST /predict`, of all threads of this process.

    The load generator has `CONNECTIONS`, each of which sends its next request after an answer. Raises TuneportError for
    a status other than `expected`.
    """
    port = free_port()
    config = uvicorn.Config(app, HOST, port, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    config.http_protocol_class = extend_protocol(config.http_protocol_class, Settings(), refuse)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: uvloop.run(server.serve()))
    plan = LoadPlan(port=port, path=PREDICT_PATH, bodies=(body,), connections=CONNECTIONS, seconds=SECONDS)
    thread.start()
    try:
        _wait_for(server)
        run_load(plan.model_copy(update={"seconds": WARM_UP_S}))
        before_s = time.process_time()
        load = run_load(plan)
        cpu_s = time.process_time() - before_s
    finally:
        server.should_exit = True
        thread.join()
    if set(load.statuses) != {expected}:
        raise TuneportError(f"the statuses are {load.statuses} instead of {expected}", "look at the log; report it")
    return round(1e6 * cpu_s / load.sent, 1)


@contextlib.contextmanager
def discarded_log() -> Iterator[None]:
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
