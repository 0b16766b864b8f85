"""Which versions of which models serve, as a value that all workers have in common, and what a change makes of it."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from tuneport.errors import ModelNotLoaded
from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST
from tuneport.schema.base import Frozen
from tuneport.schema.loading import load_manifest

VersionKey = tuple[str, str]
"""The name of a model, and a version of it."""


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


class UnloadOptions(Frozen):
    """The parameters of a request to unload a version."""

    version: str | None = None
    """By default the whole model."""
    unload_dependents: bool = False
    """Triton's, whose clients send it always; no model depends on another one here."""


class VersionRef(Frozen):
    """A version, and the artifact that it is opened from."""

    version: str
    folder: Path
    manifest_sha256: str

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Describe the artifact that is in a folder now; raises ArtifactError."""
        return cls(version=load_manifest(folder).version, folder=folder, manifest_sha256=sha256(folder / MANIFEST))


class ModelState(Frozen):
    """The versions of a model, and the requests that each gets."""

    name: str
    serving: VersionRef
    candidate: VersionRef | None = None
    """The version that answers the share `weight` of the requests."""
    weight: float = 0.0
    shadow: VersionRef | None = None
    shadow_share: float = 1.0

    @property
    def versions(self) -> tuple[VersionRef, ...]:
        """The versions that have to be open, the one that serves first."""
        return (self.serving, *(each for each in (self.candidate, self.shadow) if each))

    def find(self, version: str | None) -> VersionRef | None:
        """Return a version that is open, None for another."""
        return next((each for each in self.versions if each.version == version), None)

    def with_version(self, ref: VersionRef, options: LoadOptions) -> Self:
        """Give a version its traffic; raises ModelNotLoaded for a share of the version that serves."""
        if options.traffic == "switch":
            return type(self)(name=self.name, serving=ref)
        if ref.version == self.serving.version:
            raise ModelNotLoaded(f"{self.name} {ref.version} serves already", "load another version beside it")
        others = self.without(ref.version)
        if options.traffic == "shadow":
            return others.model_copy(update={"shadow": ref, "shadow_share": options.shadow_share})
        return others.model_copy(update={"candidate": ref, "weight": float(options.traffic)})

    def without(self, version: str) -> Self:
        """Take a version out of its place beside the one that serves."""
        changes: dict[str, object] = {}
        if self.candidate and self.candidate.version == version:
            changes |= {"candidate": None, "weight": 0.0}
        if self.shadow and self.shadow.version == version:
            changes |= {"shadow": None, "shadow_share": 1.0}
        return self.model_copy(update=changes)


class Failure(Frozen):
    """Why a version was not loaded."""

    name: str
    version: str
    reason: str


class ServingState(Frozen):
    """All models of a service."""

    models: tuple[ModelState, ...]
    """The first one answers requests that name none."""
    failures: tuple[Failure, ...] = ()
    revision: int = 0
    """How many changes led to this state."""

    @classmethod
    def of(cls, *artifacts: Path) -> Self:
        """Return the state at the start of a service that serves these artifacts; raises ArtifactError."""
        return cls(
            models=tuple(ModelState(name=load_manifest(each).name, serving=VersionRef.of(each)) for each in artifacts)
        )

    def find(self, name: str) -> ModelState | None:
        """Return a model, None for another name."""
        return next((each for each in self.models if each.name == name), None)

    def after_load(self, name: str, ref: VersionRef, options: LoadOptions) -> Self:
        """Return the state after a version was loaded; raises ModelNotLoaded where it cannot have that traffic."""
        model = self.find(name)
        if model is None and options.traffic != "switch":
            raise ModelNotLoaded(f"no version of {name} serves", "load it with the traffic switch first")
        changed = model.with_version(ref, options) if model else ModelState(name=name, serving=ref)
        failures = tuple(each for each in self.failures if (each.name, each.version) != (name, ref.version))
        return self._changed(changed, name).model_copy(update={"failures": failures})

    def after_unload(self, name: str, version: str | None) -> Self:
        """Return the state after a version, or a model, was unloaded; raises ModelNotLoaded for what has to stay."""
        model = self.find(name)
        if model is None or (version is not None and model.find(version) is None):
            raise ModelNotLoaded(f"{name[:80]} {(version or '')[:40]} is not loaded", "see the index of the models")
        if version is not None and version != model.serving.version:
            return self._changed(model.without(version), name)
        if version is not None or model is self.models[0]:
            remedy = "load another version first" if version else "stop the service instead"
            raise ModelNotLoaded(f"{name} {model.serving.version} answers requests", remedy)
        return self._changed(None, name)

    def with_failure(self, key: VersionKey, reason: str) -> Self:
        """Remember why a version was not loaded; nothing else changes."""
        others = [each for each in self.failures if (each.name, each.version) != key]
        failure = Failure(name=key[0], version=key[1], reason=reason[:300])
        return self.model_copy(update={"failures": (*others, failure)})

    def _changed(self, model: ModelState | None, name: str) -> Self:
        """Replace the model of a name in its place, or remove it, or add it at the end."""
        models = tuple(model if each.name == name else each for each in self.models)
        if model is not None and self.find(name) is None:
            models = (*models, model)
        kept = tuple(each for each in models if each is not None)
        return self.model_copy(update={"models": kept, "revision": self.revision + 1})
