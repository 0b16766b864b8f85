"""The BentoML service: `bentoml serve serve.service:Tuneport`, `bentoml build`.

BentoML's supervisor imports this module only to start the workers, so what answers requests is imported by them alone.

Which artifact it serves is the bento argument `model` (`--arg model=tuneport:1f2e3d…`); without it, the one
that was registered last. A built bento keeps the one it was built with.
"""

import asyncio
import atexit
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import bentoml
from bentoml.models import BentoModel
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from export.files import TuneportError
from serve import lifecycle, logs
from serve.bento import MODEL_NAME
from serve.settings import METRICS_FOLDER, Settings, read_settings


class Arguments(BaseModel):
    """Arguments of `bentoml serve` and `bentoml build`."""

    model: str = f"{MODEL_NAME}:latest"


def bentoml_settings(settings: Settings) -> dict[str, Any]:
    """Say in BentoML's words what only its supervisor can do, and leave out what the doors do themselves."""
    tls: dict[str, Any] = {}
    if settings.tls_certfile and settings.tls_keyfile:
        certificate, key = (str(path.absolute()) for path in (settings.tls_certfile, settings.tls_keyfile))
        tls = {"ssl": {"enabled": True, "certfile": certificate, "keyfile": key}}
    return {
        "workers": settings.workers,
        # Its middleware holds a timer for each request as long as this; ours has answered before.
        "traffic": {"timeout": math.ceil(settings.request_timeout_s + settings.body_timeout_s) + 5},
        "metrics": {"enabled": False},
        "logging": {"access": {"enabled": False}},
        "tracing": {"excluded_urls": ".*"},
        **tls,
    }


arguments = bentoml.use_arguments(Arguments)
# Read here because the supervisor, too, needs to know about workers and TLS.
settings = read_settings()
_app: ASGIApp | None = None


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Hand over to the HTTP door, which opens with the worker."""
    assert _app is not None
    await _app(scope, receive, send)


@bentoml.service(name="tuneport", **bentoml_settings(settings))
@bentoml.asgi_app(app)
class Tuneport:
    """A fine-tuned model behind `POST /predict` and the Open Inference Protocol."""

    model = BentoModel(arguments.model)

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Before the workers start: where they add up their figures, and which variant they serve.

        The variant is chosen here where the artifact was timed on another machine. BentoML's own folder for figures
        is one for all its services, and each that starts empties it.
        """
        logs.set_up()
        if settings.workers > 1:
            os.environ[METRICS_FOLDER] = tempfile.mkdtemp(prefix="tuneport-metrics-")
            atexit.register(shutil.rmtree, os.environ[METRICS_FOLDER], ignore_errors=True)
        from serve.retune import fastest_if_unlike

        if settings.variant is None and (variant := fastest_if_unlike(_artifact(), settings)):
            os.environ["TUNEPORT_VARIANT"] = variant

    def __init__(self) -> None:
        """Load and prove the artifact; the worker is not ready before, and the service ends if it fails."""
        from serve.desk import Desk
        from serve.http import create_app
        from serve.predictor import Predictor

        global _app
        logs.set_up()
        try:
            self.desk = Desk(Predictor(_artifact(), settings), settings)
            _app = create_app(self.desk, settings.origins())
        except TuneportError as error:
            lifecycle.report_failed_start(error)
            raise
        self._grpc: Any = None
        self._metrics_server: Any = None

    @bentoml.on_startup
    async def open_doors(self) -> None:
        """Open the gRPC door in this worker's event loop; BentoML opens the HTTP one after it."""
        try:
            if settings.grpc_port:
                from serve.grpc import GrpcDoor

                self._grpc = GrpcDoor(self.desk)
                await self._grpc.start()
            if settings.metrics_port and bentoml.server_context.worker_index in (None, 1):
                self._metrics_server = self.desk.metrics.listen(settings.metrics_port, settings.grpc_host)
        except TuneportError as error:
            lifecycle.report_failed_start(error)
            raise
        lifecycle.take_over(settings, self._drain)
        lifecycle.report_ready()
        logs.log("ready", model=self.desk.predictor.describe(), pid=os.getpid())

    async def __is_ready__(self) -> bool:
        """Answer /readyz: false from when the service is told to stop."""
        return self.desk.ready

    async def _drain(self) -> None:
        """Say not ready for a while, then close the gRPC door beside the HTTP one."""
        logs.log("stopping", drain_s=settings.drain_s, grace_s=settings.grace_s)
        self.desk.ready = False
        if self._grpc:
            await self._grpc.set_ready(False)
        await asyncio.sleep(settings.drain_s)
        if self._grpc:
            self._closing = asyncio.ensure_future(self._grpc.stop(settings.grace_s))

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Let what is under way end."""
        self.desk.ready = False
        if self._grpc:
            await self._grpc.stop(settings.grace_s)
        if self._metrics_server:
            self._metrics_server.shutdown()
        self.desk.predictor.close()


def _artifact() -> Path:
    """Find the artifact: in a bento the version it was built with, though a newer one be registered since."""
    bento = Tuneport.bento  # type: ignore[attr-defined]  # the decorator made a Service of the class
    if bento is None:
        return Path(bentoml.models.get(arguments.model).path)
    return Path(bento.info.all_models[0].to_model().resolve().path)
