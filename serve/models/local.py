"""The versions that this worker has open: open and prove them, give them their traffic, close them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from tuneport.errors import TuneportError
from tuneport.memory import trim_memory

from .. import logs
from ..admission import AdmissionController
from ..origin import check_manifest
from .registry import Model, ModelRegistry
from .state import ServingState, VersionKey, VersionRef

POLL_S = 0.05
Opened = dict[VersionKey, AdmissionController]
"""Versions that are open and have no traffic yet."""
OpenVersion = Callable[[Path], AdmissionController]
"""Opens an artifact and checks its golden cases; raises a TuneportError if it may not serve."""


class LocalModels:
    """Brings the registry of a worker into a state; the caller sees to it that there is one change at a time."""

    def __init__(self, models: ModelRegistry, open_version: OpenVersion, state: ServingState) -> None:
        """Take a registry that is in a state."""
        self.models = models
        self.state = state
        self._open = open_version
        self._closing: set[asyncio.Task[None]] = set()

    def open_missing(self, target: ServingState) -> Opened:
        """Open the versions of a state that are not open yet, in this thread; if one fails, none is open."""
        opened: Opened = {}
        try:
            for model in target.models:
                for ref in model.versions:
                    key = (model.name, ref.version)
                    if self.models.version(*key) is None and key not in opened:
                        check_manifest(ref.folder, ref.manifest_sha256)
                        opened[key] = self._open(ref.folder)
        except BaseException:
            _shut(opened.values())
            raise
        return opened

    def begin(self, target: ServingState, version: VersionKey | None) -> "asyncio.Future[Opened]":
        """Begin to open, in a thread, what a state needs; `version` is shown as loading until `commit` or `abort`."""
        if version:
            self.models.loading.add(version)
        return asyncio.ensure_future(asyncio.to_thread(self.open_missing, target))

    def commit(self, target: ServingState, opened: Mapping[VersionKey, AdmissionController]) -> None:
        """Give every version its traffic, in one step of the event loop, and close those that have none any more."""
        before = self.models.versions

        def find(name: str, ref: VersionRef | None) -> AdmissionController | None:
            if ref is None:
                return None
            return opened.get((name, ref.version)) or self.models.version(name, ref.version)

        for each in target.models:
            serving = find(each.name, each.serving)
            assert serving is not None
            model = self.models.get(each.name) or Model(serving)
            others = find(each.name, each.candidate), find(each.name, each.shadow)
            model.assign(serving, others[0], each.weight, others[1], each.shadow_share)
            self.models.put(model)
        for name in {each.name for each in self.models} - {each.name for each in target.models}:
            self.models.remove(name)
        if target.revision != self.state.revision:
            logs.log("models changed", revision=target.revision)
        self._enter(target)
        for version in before:
            if version not in self.models.versions:
                self._close_later(version)

    def abort(self, opening: "asyncio.Future[Opened]", version: VersionKey | None, reason: str) -> None:
        """Close what is opened for a change that does not take place, as soon as it is open, and keep the reason."""
        opening.add_done_callback(self._discard)
        self.remember_failure(version, reason)

    def remember_failure(self, version: VersionKey | None, reason: str) -> None:
        """Remember why a change does not take place."""
        self._enter(self.state.with_failure(version, reason) if version else self.state)
        if version:
            fields = {"name": version[0], "version": version[1]}
            logs.log("model not loaded", logging.ERROR, **fields, reason=reason[:300])

    def close(self) -> None:
        """Stop the engines of all versions."""
        for version in self.models.versions:
            version.inference.close()
            version.other_variants.close()

    def _enter(self, state: ServingState) -> None:
        self.state = state
        self.models.loading.clear()
        self.models.failures = {(each.name, each.version): each.reason for each in state.failures}

    def _close_later(self, version: AdmissionController) -> None:
        version.observe = None
        version.metrics.traffic.share(0)
        self._run(self._close(version))

    async def _close(self, version: AdmissionController) -> None:
        """Close a version when its last request has ended."""
        while version.active_requests:
            await asyncio.sleep(POLL_S)
        await asyncio.to_thread(_shut, [version])
        logs.log("model closed", model=version.model)

    def _discard(self, opening: "asyncio.Future[Opened]") -> None:
        """Close what was opened in vain."""
        if not opening.cancelled() and opening.exception() is None:
            self._run(asyncio.to_thread(_shut, opening.result().values()))

    def _run(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _shut(versions: Iterable[AdmissionController]) -> None:
    """Close versions without requests and give their memory back, which lasts as long as the batches that run."""
    for version in versions:
        version.inference.close()
        version.other_variants.close()
        version.metrics.remove()
        version.other_variants.release()
        version.inference.release()
    trim_memory()


def explain(error: BaseException) -> tuple[str, str]:
    """Return what is wrong, and what to do about it; the log has where an error came from that nobody expected."""
    if isinstance(error, TuneportError):
        return error.problem, error.remedy
    logs.log("change failed", logging.ERROR, exc_info=error)
    return f"{type(error).__name__}: {str(error)[:300]}", "see the service's log"
