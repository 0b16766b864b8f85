"""The worker process of `tuneport serve`: uvicorn with the service's application, without BentoML.

python -m tuneport.stages.serve.standalone ARTIFACT --fd SOCKET --number N --manifest HASH
"""

import contextlib
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from .process_arguments import ProcessArguments
from .settings import Settings, read_settings
from .worker import Worker


def health_app(worker: Worker) -> Starlette:
    """Return the application that starts and stops the worker, with the paths that BentoML has for probes."""

    async def alive(request: Request) -> PlainTextResponse:
        return PlainTextResponse("\n")

    async def ready(request: Request) -> PlainTextResponse:
        is_ready = worker.models.ready
        return PlainTextResponse("\n") if is_ready else PlainTextResponse("the service is not ready\n", 503)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await worker.start()
        yield
        await worker.stop()

    routes = [Route("/livez", alive), Route("/healthz", alive), Route("/readyz", ready)]
    return Starlette(routes=routes, lifespan=lifespan)


def server_config(worker: Worker, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration; `Worker.start` sets timeouts and the application of all other paths."""
    return uvicorn.Config(
        health_app(worker),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        ssl_certfile=settings.tls_certfile,
        ssl_keyfile=settings.tls_keyfile,
    )


def main() -> None:
    """Serve until a signal to stop comes."""
    artifact, listening, number, manifest_hash = ProcessArguments.parse()
    settings = read_settings()
    try:
        worker = Worker(artifact, settings, number=number, manifest_hash=manifest_hash)
    except Exception as error:  # reported already
        raise SystemExit(1) from error
    uvicorn.Server(server_config(worker, settings)).run(sockets=[listening])


if __name__ == "__main__":
    main()
