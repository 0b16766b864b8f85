"""A worker: the process part of the service, whichever program started it. Imports no BentoML."""

import asyncio
import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from tuneport.errors import EngineLost

from . import lifecycle, logs, supervision
from .settings import Settings

if TYPE_CHECKING:
    from .models.opener import OpenInference


class Worker:
    """Opens an artifact, serves it over HTTP and gRPC, and shuts down gracefully."""

    def __init__(
        self,
        artifact: Path,
        settings: Settings,
        *,
        number: int | None = None,
        manifest_hash: str | None = None,
        open_inference: "OpenInference | None" = None,
    ) -> None:
        """Open the artifact and check its golden cases; if that fails the worker never becomes ready.

        `number` counts the workers of a service from 1. With a `manifest_hash` no other artifact is served, so that a
        worker that replaces another does not serve what was exported into the folder meanwhile. `open_inference` opens
        the artifact where each worker has an engine of its own, by default behind tuneport's batcher. What fails is
        reported to the process that started the service, and raised.
        """
        from .http.app import create_app, create_refusal
        from .models.host import ModelHost
        from .models.opener import Opener
        from .models.registry import ModelRegistry
        from .models.shared_state import SharedState
        from .models.state import ServingState
        from .origin import check_manifest

        logs.set_up_process()
        supervision.prepare_worker(settings.shutdown_grace_s)
        try:
            shared = SharedState(supervision.run_folder())
            state = shared.read()  # several models, or versions that were loaded since the service began
            if state is None:
                if manifest_hash:
                    check_manifest(artifact, manifest_hash)
                state = ServingState.of(artifact)
            first = state.models[0].serving
            check_manifest(first.folder, first.manifest_sha256)
            settings = _shared(settings, len(state.models))
            opener = Opener(settings, number, open_inference, self._device_lost)
            self.models = ModelRegistry(opener(first.folder))
            self._host = ModelHost(self.models, settings, opener, state, number=number or 1, shared=shared)
            self._host.catch_up()
            self.app: ASGIApp = create_app(self.models, settings.origins(), self._host)
            self._refuse = create_refusal(self.models, settings.origins())
        except EngineLost as error:  # another engine process takes its place, and another worker this one's
            logs.log("failed start", logging.ERROR, reason=error.problem)
            raise
        except Exception as error:
            lifecycle.report_failed_start(error)
            raise
        self._settings = settings
        self._number = number
        self._grpc: Any = None
        self._metrics_server: Any = None

    async def start(self) -> None:
        """Start the gRPC server in this event loop and configure uvicorn's, which starts HTTP after it."""
        settings = self._settings
        try:
            await self._host.join()  # before any request comes
            if settings.grpc_port:
                from .grpc.server import GrpcServer

                self._grpc = GrpcServer(self.models, self._host)
                await self._grpc.start()
            if settings.metrics_port and self._number in (None, 1):
                self._metrics_server = self.models.worker.families.listen(settings.metrics_port, settings.grpc_host)
        except Exception as error:
            lifecycle.report_failed_start(error)
            raise
        lifecycle.configure_server(settings, self.app, self._refuse, self._drain, self._hurry)
        self._loop = asyncio.get_running_loop()
        for version in self.models.versions:
            version.inference.start(self._engine_changed)
        # What was imported and opened lives as long as the process: later collections need not look at it.
        gc.collect()
        gc.freeze()
        supervision.report_ready()
        logs.log("ready", model=self.models.default.serving.model, pid=os.getpid())

    async def stop(self) -> None:
        """Let active gRPC requests finish within the grace time, and stop the engine."""
        self.models.worker.is_serving = False
        if self._grpc:
            await self._grpc.stop(self._settings.shutdown_grace_s)
        if self._metrics_server:
            self._metrics_server.shutdown()
        logs.write_pending()  # an engine that hangs may have this process ended before the last line
        self._host.close()
        logs.write_pending()

    def _engine_changed(self, is_ready: bool) -> None:
        """Take note that the engine process has ended, or that another one is ready."""
        if is_ready:
            logs.log("engine connected", pid=os.getpid())
            supervision.report_ready()
        else:
            logs.log("engine lost", logging.ERROR, pid=os.getpid())
            supervision.report_not_ready()
        if self._grpc:
            self._health = asyncio.ensure_future(self._grpc.set_ready(self.models.ready))

    def _device_lost(self) -> None:
        """Leave in the event loop; called in a thread of an engine."""
        self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        """Stop this worker because its device is lost: its requests get errors, and another worker takes its place."""
        lost = [version for version in self.models.versions if version.inference.lost_because]
        for version in lost:
            logs.log("device lost", logging.ERROR, because=version.inference.lost_because, pid=os.getpid())
            if version.metrics.engine:
                version.metrics.engine.device_lost()
        self.models.worker.is_serving = False
        lifecycle.stop_worker(self._settings.shutdown_grace_s)

    async def _drain(self) -> None:
        """Become not ready, continue serving for the drain time, then start to close the gRPC server."""
        settings = self._settings
        logs.log("stopping", drain_s=settings.drain_s, shutdown_grace_s=settings.shutdown_grace_s)
        self.models.worker.is_serving = False
        self._host.leave()
        if self._grpc:
            await self._grpc.set_ready(False)
        is_lost = any(
            version.inference.lost_because for version in self.models.versions
        )  # each request that comes meanwhile would fail
        await asyncio.sleep(0 if is_lost or supervision.is_orphan() else settings.drain_s)
        if self._grpc:
            self._closing = asyncio.ensure_future(self._grpc.stop(settings.shutdown_grace_s))

    async def _hurry(self) -> None:
        """End active gRPC requests, too."""
        if self._grpc:
            await self._grpc.stop(0)


def _shared(settings: Settings, models: int) -> Settings:
    """Return the settings of one of several models, each of which has an equal share of the worker's threads."""
    return settings.model_copy(update={"threads": max(1, settings.worker_threads() // models)})
