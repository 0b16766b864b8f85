"""Load, switch and unload versions while the worker serves.

A version opens and proves its golden cases in a thread. Then one assignment switches the traffic, and the version that
no longer gets requests is closed when its last one has ended.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from tuneport.errors import ModelNotLoaded, TuneportError
from tuneport.schema.artifact import Manifest
from tuneport.schema.base import Frozen

from .. import logs
from ..admission import AdmissionController
from ..lanes import trim_memory
from ..settings import Settings
from ..supervision import RUN_FOLDER
from .registry import Model, ModelRegistry
from .repository import Available, find_available
from .shadow import Shadow
from .state import write_serving

POLL_S = 0.05


class LoadOptions(Frozen):
    """The parameters of a request to load a version."""

    version: str | None = None
    """By default the newest in the model repository."""
    traffic: Literal["switch", "shadow"] | float = "switch"
    """All requests, none but copies whose answers are compared, or the share of the requests that it answers."""
    shadow_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the requests that a shadow gets a copy of."""
    accept_changes: bool = False
    """Allow another task or other labels than the version's that serves, which may break clients."""


class ModelHost:
    """Changes what a registry has; one change at a time."""

    def __init__(
        self, models: ModelRegistry, settings: Settings, open_version: Callable[[Path], AdmissionController]
    ) -> None:
        """`open_version` opens an artifact, and raises a TuneportError if it may not serve."""
        self.models = models
        self._settings = settings
        self._open = open_version
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def load(self, name: str, options: LoadOptions) -> AdmissionController:
        """Load a version and give it its traffic; ModelNotLoaded with the reason leaves everything as it was."""
        self._check_processes()
        _check_traffic(options.traffic)
        async with self._lock:
            model = self.models.get(name)
            version = model.version(options.version) if model and options.version else None
            if version is None:
                available = await asyncio.to_thread(
                    find_available, self._settings.model_repository, name, options.version
                )
                version = model.version(available.manifest.version) if model else None
                version = version or await self._open_version(model, available, options)
            self._give_traffic(model, version, options)
            self._save()
        logs.log("model loaded", model=version.model, traffic=options.traffic)
        return version

    async def unload(self, name: str, version: str | None) -> None:
        """Remove a shadow or candidate, or the whole model if no version is named; not what serves by default."""
        self._check_processes()
        async with self._lock:
            model = self.models.get(name)
            if model is None or (found := model.version(version) if version else model.serving) is None:
                raise ModelNotLoaded(f"{name[:80]} {version or ''} is not loaded", "see the index of the models")
            if version is None or found is model.serving:
                if model is self.models.default or version is not None:
                    remedy = "load another version first" if version else "stop the service instead"
                    raise ModelNotLoaded(f"{name} {found.manifest.version} answers requests", remedy)
                self.models.remove(name)
                self._close_later(*model.versions)
            else:
                _without(model, found)
                self._close_later(found)
            self._save()
        logs.log("model unloaded", model=found.model)

    def close(self) -> None:
        """Stop the engines of all versions."""
        for version in self.models.versions:
            version.inference.close()
            version.other_variants.close()

    async def _open_version(
        self, model: Model | None, available: Available, options: LoadOptions
    ) -> AdmissionController:
        manifest = available.manifest
        name = manifest.name
        key = (name, manifest.version)
        try:
            if model and not options.accept_changes:
                _check_contract(model.serving.manifest, manifest)
            if model is None and options.traffic != "switch":
                raise ModelNotLoaded(f"no version of {name} serves", "load it with the traffic switch first")
            version = await asyncio.to_thread(self._open, available.folder)
        except Exception as error:
            self.models.failures[key] = str(error)[:300]
            logs.log("model not loaded", logging.ERROR, name=name, version=manifest.version, reason=str(error)[:300])
            if isinstance(error, ModelNotLoaded):
                raise
            remedy = error.remedy if isinstance(error, TuneportError) else "see the service's log"
            problem = error.problem if isinstance(error, TuneportError) else type(error).__name__
            raise ModelNotLoaded(f"{name} {manifest.version} was not loaded: {problem}", remedy) from error
        self.models.failures.pop(key, None)
        return version

    def _give_traffic(self, model: Model | None, version: AdmissionController, options: LoadOptions) -> None:
        """Assign a version to its place, and close what was there."""
        if model is None:
            self.models.put(Model(version))
            return
        before = model.versions
        if version is model.serving and options.traffic != "switch":
            problem = f"{model.name} {version.manifest.version} serves already"
            raise ModelNotLoaded(problem, "load another version beside it")
        _without(model, version)
        if options.traffic == "switch":
            model.serving.observe = None
            model.serving, model.candidate, model.shadow = version, None, None
        elif options.traffic == "shadow":
            model.shadow, model.serving.observe = version, Shadow(version, options.shadow_share)
        else:
            model.candidate, model.weight = version, float(options.traffic)
        self._close_later(*(each for each in before if each not in model.versions))

    def _close_later(self, *versions: AdmissionController) -> None:
        for version in versions:
            version.observe = None
            task = asyncio.get_running_loop().create_task(self._close(version))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, version: AdmissionController) -> None:
        """Close a version when its last request has ended, and give its memory back."""
        while version.active_requests:
            await asyncio.sleep(POLL_S)
        await asyncio.to_thread(version.inference.close)
        version.other_variants.close()
        version.metrics.remove()
        version.inference.release()
        await asyncio.to_thread(trim_memory)
        logs.log("model closed", model=version.model)

    def _check_processes(self) -> None:
        """Raise ModelNotLoaded where a change here would not reach the other processes of the service."""
        if self._settings.engine_count or self._settings.worker_count > 1:
            problem = "models are not loaded live in a service of several workers, or with shared engines"
            raise ModelNotLoaded(problem, "serve with TUNEPORT_WORKERS=1, or roll out with a proxy in front")

    def _save(self) -> None:
        """Write what serves, for a worker that takes this one's place."""
        if folder := os.environ.get(RUN_FOLDER):
            write_serving(Path(folder), [model.serving.inference.predictor.folder for model in self.models])


def _without(model: Model, version: AdmissionController) -> None:
    """Take a version out of its place beside the one that serves."""
    if version is model.candidate:
        model.candidate, model.weight = None, 0.0
    if version is model.shadow:
        model.shadow = model.serving.observe = None


def _check_traffic(traffic: str | float) -> None:
    if not isinstance(traffic, str) and not 0 < traffic < 1:
        raise ModelNotLoaded(f"the traffic {traffic:g} is no share", "give a number between 0 and 1, switch or shadow")


def _check_contract(serving: Manifest, other: Manifest) -> None:
    """Raise ModelNotLoaded for a version whose answers clients of the one that serves would not understand."""
    changes = [
        what
        for what, ours, theirs in (
            (f"the task {other.task} instead of {serving.task}", serving.task, other.task),
            ("other labels", serving.labels, other.labels),
        )
        if ours != theirs
    ]
    if changes:
        problem = f"{other.name} {other.version} has {' and '.join(changes)} than the version that serves"
        raise ModelNotLoaded(problem, "load it with accept_changes if its clients know")
