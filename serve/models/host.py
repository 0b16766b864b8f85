"""Load, switch and unload versions while the service serves: check what is asked for, and have it carried out."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tuneport.errors import ModelNotLoaded
from tuneport.schema.artifact import Manifest

from .. import logs
from ..settings import Settings
from .coordinator import Coordinator
from .local import LocalModels, OpenVersion
from .registry import ModelRegistry
from .repository import find_available
from .shared_state import SharedState
from .state import LoadOptions, ModelState, ServingState, VersionRef

Result = TypeVar("Result")


class ModelHost:
    """Changes what the workers of a service have open; one change at a time."""

    def __init__(
        self,
        models: ModelRegistry,
        settings: Settings,
        open_version: OpenVersion,
        state: ServingState | None = None,
        *,
        number: int = 1,
        shared: SharedState | None = None,
    ) -> None:
        """Take a registry that has the models of a start; with a `state`, `catch_up` opens the rest of it.

        `number` is that of this worker, from 1. Without `shared` there are no other workers.
        """
        self.models = models
        self._settings = settings
        self._shared = shared or SharedState(None)
        folders = [model.serving.inference.predictor.folder for model in models]
        self._local = LocalModels(models, open_version, state or ServingState.of(*folders))
        self._coordinator = Coordinator(self._local, self._shared, settings, number)
        self._changes: set[asyncio.Task[Any]] = set()

    def catch_up(self) -> None:
        """Open, before the worker serves, all that its state has beside the default model."""
        state = self._local.state
        self._local.commit(state, self._local.open_missing(state))

    async def join(self) -> None:
        """Take part in changes from now on, after what has changed since this worker began to start."""
        await self._coordinator.join()

    def leave(self) -> None:
        """Take part in no change any more; one that is not decided ends, with nothing changed."""
        self._coordinator.leave()

    def close(self) -> None:
        """Stop the engines of all versions."""
        self._local.close()

    async def load(self, name: str, options: LoadOptions) -> dict[str, str]:
        """Load a version and give it its traffic; returns its name, version and variant.

        Raises ModelNotLoaded with the reason, and then everything is as it was.
        """
        return await self._shielded(self._load(name, options))

    async def unload(self, name: str, version: str | None) -> None:
        """Remove a shadow or candidate, or the whole model if no version is named; not what serves by default."""
        await self._shielded(self._unload(name, version))

    async def _shielded(self, change: Coroutine[Any, Any, Result]) -> Result:
        """Carry a change out to its end, even if the client that asked for it leaves."""
        task = asyncio.ensure_future(change)
        self._changes.add(task)
        task.add_done_callback(self._end)
        return await asyncio.shield(task)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # whether or not somebody still waits for it

    async def _load(self, name: str, options: LoadOptions) -> dict[str, str]:
        self._check_engines()
        _check_traffic(options.traffic)
        with self._exclusive() as state:
            ref, new_manifest = await self._resolve(state.find(name), name, options.version)
            target = state.after_load(name, ref, options)
            if new_manifest and not options.accept_changes:
                self._check_contract(name, new_manifest)
            await self._coordinator.carry_out(target, (name, ref.version))
        opened = self.models.version(name, ref.version)
        assert opened is not None
        logs.log("model loaded", model=opened.model, traffic=options.traffic)
        return opened.model

    async def _resolve(
        self, model: ModelState | None, name: str, version: str | None
    ) -> tuple[VersionRef, Manifest | None]:
        """Find a version, by default the newest one, and its manifest unless it is loaded; raises ModelNotLoaded."""
        if model and (loaded := model.find(version)):
            return loaded, None
        available = await asyncio.to_thread(find_available, self._settings.model_repository, name, version)
        if model and (loaded := model.find(available.manifest.version)):
            return loaded, None
        return VersionRef.of(available.folder), available.manifest

    async def _unload(self, name: str, version: str | None) -> None:
        self._check_engines()
        with self._exclusive() as state:
            await self._coordinator.carry_out(state.after_unload(name, version))
        logs.log("model unloaded", name=name, version=version)

    @contextmanager
    def _exclusive(self) -> Iterator[ServingState]:
        """Let no other change begin; yields the state, and raises ModelNotLoaded if this worker is not in it yet."""
        with self._shared.exclusive():
            self._shared.check_current(self._local.state)
            yield self._local.state

    def _check_engines(self) -> None:
        """Raise ModelNotLoaded where the engines are processes that workers share."""
        if self._settings.engine_count:
            problem = "models are not loaded live in a service with shared engines"
            raise ModelNotLoaded(problem, "serve with TUNEPORT_ENGINES=0, or roll out with a proxy in front")

    def _check_contract(self, name: str, other: Manifest) -> None:
        """Raise ModelNotLoaded for a version whose answers clients of the one that serves would not understand."""
        model = self.models.get(name)
        if model is None:
            return
        serving = model.serving.manifest
        changes = [
            what
            for what, ours, theirs in (
                (f"the task {other.task} instead of {serving.task}", serving.task, other.task),
                ("other labels", serving.labels, other.labels),
            )
            if ours != theirs
        ]
        if not changes:
            return
        problem = f"{name} {other.version} has {' and '.join(changes)} than the version that serves"
        raise ModelNotLoaded(problem, "load it with accept_changes if its clients know")


def _check_traffic(traffic: str | float) -> None:
    if not isinstance(traffic, str) and not 0 < traffic < 1:
        raise ModelNotLoaded(f"the traffic {traffic:g} is no share", "give a number between 0 and 1, switch or shadow")
