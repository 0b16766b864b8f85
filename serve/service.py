"""The BentoML service, for `bentoml serve tuneport.stages.serve.service:Tuneport` and `bentoml build`.

BentoML's supervisor imports this module, too, but never answers requests: engines are imported in the workers only.

The bento argument `model` names the artifact to serve (`--arg model=tuneport:1f2e3d…`), by default the one that was
registered last. A built bento keeps the one it was built with.
"""

import asyncio
import atexit
import contextlib
import logging
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
from bentoml.exceptions import BentoMLException
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from tuneport.errors import TuneportError
from tuneport.schema.loading import load_manifest

from . import lifecycle, logs, supervision, tracing
from .bento import MODEL_NAME, registered_labels
from .packing import artifact_model
from .settings import METRICS_FOLDER, Settings, read_settings

if TYPE_CHECKING:
    from .inference import Inference


class Arguments(BaseModel):
    """Arguments of `bentoml serve` and `bentoml build`."""

    model: str = f"{MODEL_NAME}:latest"
    """The artifact."""
    variants: str = ""
    """What a bento packs of it; by default the variant that serves, and its fallback."""


def bentoml_settings(settings: Settings) -> dict[str, Any]:
    """Return what BentoML's supervisor must know of the settings; its own metrics, logs and traces are off."""
    tls: dict[str, Any] = {}
    if settings.tls_certfile and settings.tls_keyfile:
        certificate, key = (str(path.absolute()) for path in (settings.tls_certfile, settings.tls_keyfile))
        tls = {"ssl": {"enabled": True, "certfile": certificate, "keyfile": key}}
    return {
        "workers": settings.worker_count,
        # BentoML's middleware keeps a timer for each request this long; our own timeouts end requests earlier.
        "traffic": {"timeout": math.ceil(settings.request_timeout_s + settings.body_timeout_s) + 5},
        "metrics": {"enabled": False},
        "logging": {"access": {"enabled": False}},
        "tracing": {"excluded_urls": ".*"},
        **tls,
    }


def _with_workers(settings: Settings) -> Settings:
    """Set the number of workers where it is not: one for each GPU if a variant for GPUs serves.

    What prevents that is an error once the service starts, where it is reported; a build needs no GPU.
    """
    if settings.workers is not None:
        return settings
    from .devices import choose_variant, default_workers

    with contextlib.suppress(BentoMLException, TuneportError):
        manifest = load_manifest(Path(bentoml.models.get(arguments.model).path))
        if any(variant.execution.device != "cpu" for variant in manifest.variants):
            device = choose_variant(manifest, settings).variant.execution.device
            return settings.model_copy(update={"workers": default_workers(device)})
    return settings


class WorkerApp:
    """The HTTP application of this process, which exists once the worker has opened its model."""

    app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        assert self.app is not None
        await self.app(scope, receive, send)


class LineBreaks:
    """Middleware that answers paths with a line break here: the pattern under which BentoML mounts us has none."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap BentoML's application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        app = worker_app if scope["type"] == "http" and "\n" in scope["path"] else self._app
        await app(scope, receive, send)


def identity(model: str) -> dict[str, Any]:
    """Return what a bento and its image say of the artifact: labels, and variables that become labels of the image."""
    labels = registered_labels(model)
    variables = [{"name": f"MODEL_{name}".upper(), "value": value} for name, value in labels.items()]
    return {"labels": labels, "envs": variables}


tracing.keep_bentoml_from_tracing()
arguments = bentoml.use_arguments(Arguments)
# Read at import because the supervisor needs to know about workers and TLS.
settings = _with_workers(read_settings())
worker_app = WorkerApp()


class ModelService:
    """A worker: opens the artifact, starts HTTP and gRPC, and shuts down gracefully.

    A service with another batcher is a subclass with its own `open_inference`, decorated as `Tuneport` is.
    """

    model = artifact_model(arguments.model, arguments.variants)

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Prepare what the workers share, before they start: the folder of their metrics, and the variant.

        The variant is chosen here where the artifact was timed on another host. BentoML's own metrics folder would be
        shared by all its services, and emptied by each that starts.
        """
        logs.set_up_process()
        os.environ["TUNEPORT_WORKERS"] = str(settings.worker_count)
        folder = supervision.prepare_supervisor()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        if settings.worker_count > 1:
            os.environ[METRICS_FOLDER] = str(folder / "metrics")
            (folder / "metrics").mkdir()
            # In its own images BentoML restarts no worker that dies: the others would go on with its GPU idle.
            os.environ.pop("BENTOML_CONTAINERIZED", None)
        from .autotune import select_for_host, warn_of_other_processor
        from .origin import Origin

        try:
            Origin.check(_artifact(), settings)  # before autotuning runs what is in the artifact
            selection = select_for_host(_artifact(), settings) if settings.variant is None else None
            if selection and selection.variant:
                os.environ["TUNEPORT_VARIANT"] = selection.variant
            if selection and selection.max_batch_tokens:
                os.environ["TUNEPORT_MAX_BATCH_TOKENS"] = str(selection.max_batch_tokens)
            warn_of_other_processor(_artifact(), selection.variant if selection else settings.variant)
        except TuneportError as error:
            lifecycle.report_failed_start(error)
            raise SystemExit(f"error: {error}") from error

    def __init__(self) -> None:
        """Open the artifact and check its golden cases; if that fails the worker never becomes ready."""
        from .admission import AdmissionController
        from .devices import place_worker
        from .http.app import create_app

        logs.set_up_process()
        supervision.prepare_worker(settings.shutdown_grace_s)
        try:
            artifact = _artifact()
            device = load_manifest(artifact).variant(settings.variant).execution.device
            placement = place_worker(device, bentoml.server_context.worker_index)
            self.admission = AdmissionController(self.open_inference(artifact), settings, placement)
            worker_app.app = create_app(self.admission, settings.origins())
        except Exception as error:
            lifecycle.report_failed_start(error)
            raise
        self._grpc: Any = None
        self._metrics_server: Any = None

    def open_inference(self, artifact: Path) -> "Inference":
        """Open the artifact behind tuneport's batcher."""
        from .inference import Inference

        return Inference.open(artifact, settings)

    @bentoml.on_startup
    async def start_servers(self) -> None:
        """Start the gRPC server in this worker's event loop; BentoML starts HTTP after it."""
        try:
            if settings.grpc_port:
                from .grpc.server import GrpcServer

                self._grpc = GrpcServer(self.admission)
                await self._grpc.start()
            if settings.metrics_port and bentoml.server_context.worker_index in (None, 1):
                self._metrics_server = self.admission.metrics.listen(settings.metrics_port, settings.grpc_host)
        except Exception as error:
            lifecycle.report_failed_start(error)
            raise
        lifecycle.install_shutdown_hooks(settings, self._drain, self._hurry)
        loop = asyncio.get_running_loop()
        self.admission.inference.on_device_lost = lambda: loop.call_soon_threadsafe(self._leave)
        supervision.report_ready()
        logs.log("ready", model=self.admission.model, pid=os.getpid())

    async def __is_ready__(self) -> bool:
        """Answer /readyz: false as soon as the service is told to stop, or has lost its device."""
        return self.admission.ready

    def _leave(self) -> None:
        """Stop this worker because its device is lost: its requests get errors, and another worker takes its place."""
        logs.log("device lost", logging.ERROR, because=self.admission.inference.lost_because, pid=os.getpid())
        self.admission.metrics.device_lost()
        self.admission.ready = False
        lifecycle.stop_worker(settings.shutdown_grace_s)

    async def _drain(self) -> None:
        """Become not ready, continue serving for the drain time, then start to close the gRPC server."""
        logs.log("stopping", drain_s=settings.drain_s, shutdown_grace_s=settings.shutdown_grace_s)
        self.admission.ready = False
        if self._grpc:
            await self._grpc.set_ready(False)
        is_lost = self.admission.inference.lost_because  # each request that comes meanwhile would fail
        await asyncio.sleep(0 if is_lost or supervision.is_orphan() else settings.drain_s)
        if self._grpc:
            self._closing = asyncio.ensure_future(self._grpc.stop(settings.shutdown_grace_s))

    async def _hurry(self) -> None:
        """End active gRPC requests, too."""
        if self._grpc:
            await self._grpc.stop(0)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Let active gRPC requests finish within the grace time, and stop the engine."""
        self.admission.ready = False
        if self._grpc:
            await self._grpc.stop(settings.shutdown_grace_s)
        if self._metrics_server:
            self._metrics_server.shutdown()
        self.admission.inference.close()


@bentoml.service(name="tuneport", **identity(arguments.model), **bentoml_settings(settings))
@bentoml.asgi_app(worker_app)
class Tuneport(ModelService):
    """A fine-tuned model behind `POST /predict` and the Open Inference Protocol."""


Tuneport.add_asgi_middleware(LineBreaks)  # type: ignore[attr-defined]  # the decorator turned the class into a Service


def _artifact() -> Path:
    """Return the artifact's folder: in a bento the version it was built with, even if a newer one is registered."""
    bento = Tuneport.bento  # type: ignore[attr-defined]  # the decorator turned the class into a Service
    if bento is None:
        return Path(bentoml.models.get(arguments.model).path)
    return Path(bento.info.all_models[0].to_model().resolve().path)
