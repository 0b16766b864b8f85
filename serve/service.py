"""The BentoML service, for `bentoml serve tuneport.stages.serve.service:Tuneport` and `bentoml build`.

BentoML's supervisor imports this module, too, but never answers requests: engines are imported in the workers only.

The bento argument `model` names the artifact to serve (`--arg model=tuneport:1f2e3d…`), by default the one that was
registered last, or several, separated by commas. A built bento keeps those it was built with.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
from bentoml.exceptions import BentoMLException
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from . import lifecycle, logs, tracing
from .bento import registered_labels
from .deployment import prepare_deployment, with_workers
from .packing import artifact_models, split_names
from .registered import LATEST, find_artifact
from .settings import Settings, read_settings
from .worker import Worker

if TYPE_CHECKING:
    from .inference import Inference


class Arguments(BaseModel):
    """Arguments of `bentoml serve` and `bentoml build`."""

    model: str = LATEST
    """The artifact, or several, separated by commas, of which the first answers where no model is named."""
    variants: str = ""
    """What a bento packs of each; by default the variant that serves, and its fallback."""


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


class WorkerApp:
    """The HTTP application of this process, which exists once the worker has opened its model."""

    app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        assert self.app is not None
        await self.app(scope, receive, send)


def _with_workers(settings: Settings) -> Settings:
    """Set the number of workers where it is not; a build may name a model that is not in the store."""
    try:
        artifact = Path(find_artifact(tags[0], or_part=True).path)
    except BentoMLException:
        return settings
    return with_workers(settings, artifact)


def identity(tags: Sequence[str]) -> dict[str, Any]:
    """Return what a bento and its image say of the artifacts: labels, and variables that become labels of the image.

    Of several artifacts each value has one for each, separated by commas.
    """
    found = [registered_labels(tag) for tag in tags]
    labels = {name: ",".join(each.get(name, "") for each in found) for name in found[0]}
    variables = [{"name": f"MODEL_{name}".upper(), "value": value} for name, value in labels.items()]
    return {"labels": labels, "envs": variables}


tracing.keep_bentoml_from_tracing()
arguments = bentoml.use_arguments(Arguments)
tags = split_names(arguments.model) or [arguments.model]
# Read at import because the supervisor needs to know about workers and TLS.
settings = _with_workers(read_settings())
worker_app = WorkerApp()


class ModelService:
    """BentoML's side of a worker.

    A service with another batcher is a subclass with its own `open_inference`, decorated as `Tuneport` is.
    """

    @bentoml.on_deployment
    @staticmethod
    def prepare() -> None:
        """Prepare what the workers share, before they start.

        BentoML's own metrics folder would be shared by all its services, and emptied by each that starts.
        """
        artifact, *more = _artifacts()
        engines = prepare_deployment(settings, artifact, more=more)
        if settings.engine_count:
            engines.keep_alive_in_background()
        if settings.worker_count > 1:
            # In its own images BentoML restarts no worker that dies: the others would go on with its GPU idle.
            os.environ.pop("BENTOML_CONTAINERIZED", None)

    def __init__(self) -> None:
        """Open the artifact and check its golden cases; if that fails the worker never becomes ready."""
        number = bentoml.server_context.worker_index
        try:
            artifact = _artifacts()[0]  # the worker reads which others serve beside it
        except Exception as error:
            logs.set_up_process()
            lifecycle.report_failed_start(error)
            raise
        self.worker = Worker(artifact, settings, number=number, open_inference=self.open_inference)
        worker_app.app = self.worker.app

    def open_inference(self, artifact: Path, settings: Settings) -> "Inference":
        """Open the artifact behind tuneport's batcher."""
        from .inference import Inference

        return Inference.open(artifact, settings)

    @bentoml.on_startup
    async def start_servers(self) -> None:
        """Start the gRPC server in this worker's event loop; BentoML starts HTTP after it."""
        await self.worker.start()

    async def __is_ready__(self) -> bool:
        """Answer /readyz: false as soon as the service is told to stop, or has lost its device."""
        return self.worker.models.ready

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Let active gRPC requests finish within the grace time, and stop the engine."""
        await self.worker.stop()


for name, model in artifact_models(tags, arguments.variants).items():
    setattr(ModelService, name, model)


@bentoml.service(name="tuneport", **identity(tags), **bentoml_settings(settings))
@bentoml.asgi_app(worker_app)
class Tuneport(ModelService):
    """A fine-tuned model behind `POST /predict` and the Open Inference Protocol."""


def _artifacts() -> list[Path]:
    """Return the artifacts' folders: in a bento the versions it was built with, even if newer ones are registered."""
    bento = Tuneport.bento  # type: ignore[attr-defined]  # the decorator turned the class into a Service
    if bento is None:
        return [Path(find_artifact(tag).path) for tag in tags]
    return [Path(model.to_model().resolve().path) for model in bento.info.all_models]
